#!/usr/bin/env python3
"""Writes a text's bytes as tokens in the form that llm.c's trainers read (its llmc/dataloader.h): llmc_tokens.py TEXT OUT."""
import array
import struct
import sys

MAGIC, VERSION, HEADER_WORDS = 20240520, 1, 256

with open(sys.argv[1], 'rb') as file:
    tokens = array.array('H', list(file.read()))
if sys.byteorder == 'big':
    tokens.byteswap()
with open(sys.argv[2], 'wb') as file:
    file.write(struct.pack('<3i', MAGIC, VERSION, len(tokens)).ljust(4 * HEADER_WORDS, b'\0'))
    tokens.tofile(file)
