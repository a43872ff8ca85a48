# supervisor: sources
