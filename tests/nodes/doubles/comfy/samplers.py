def sampler_object(name: str) -> str:
    assert name == "euler"
    return name
