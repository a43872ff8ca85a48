# dataset: sources
