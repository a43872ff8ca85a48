# checkpoint: sources
