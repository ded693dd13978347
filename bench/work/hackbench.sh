# group: system
seconds hackbench -g 2 -l 200
