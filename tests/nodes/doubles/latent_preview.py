STEPS: list[int] = []


def prepare_callback(model, steps, x0_output_dict=None):
    return lambda step, x0, x, total: STEPS.append(step)
