def trials(bench, chosen):
    pass
