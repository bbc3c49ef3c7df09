"""The gateway: the public OpenAI Images API in front of a fleet of workers."""
