# model: sources
