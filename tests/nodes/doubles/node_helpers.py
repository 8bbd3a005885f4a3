def conditioning_set_values(conditioning, values, append=False):
    return [[cross, {**extra, **values}] for cross, extra in conditioning]
