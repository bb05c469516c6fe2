"""What assets are handed: the artifact store, the LLM budget, the trainer launcher, the reward
service.
"""
