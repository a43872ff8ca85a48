# train: sources
