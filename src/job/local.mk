# job: sources
