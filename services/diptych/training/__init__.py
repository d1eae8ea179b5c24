"""Fine-tunes as durable jobs: what is asked for, who runs it, the worker that trains."""
