# mesh: sources
