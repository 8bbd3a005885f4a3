class PromptServer:
    instance = None
