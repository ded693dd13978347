def run(build, targets, rounds):
    return {}
