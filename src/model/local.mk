libcore_la_SOURCES += src/model/gpt.c src/model/gpt.h
