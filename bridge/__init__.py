"""A worker bridge between message queues and RunPod Serverless."""

__version__ = "0.1.0"
