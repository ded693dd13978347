# group: programs
# An SQL database in memory.
rows=$((40000 * ${times:-10}))
cat >/tmp/x.sql <<L
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $rows)
INSERT INTO t SELECT i, 'text ' || (i * 7919 % ($rows + 9)), i % 1000 FROM n;
CREATE INDEX tb ON t(b); CREATE INDEX tc ON t(c);
SELECT count(*), sum(length(b)) FROM t WHERE b LIKE '%99%';
SELECT c, count(*) FROM t GROUP BY c ORDER BY 2 DESC LIMIT 3;
UPDATE t SET c = c + 1 WHERE a % 3 = 0;
SELECT count(*) FROM t x JOIN t y ON x.c = y.a;
L
seconds sh -c 'sqlite3 :memory: </tmp/x.sql'
