# graph: sources
