cairninclude_HEADERS += src/cairn/cairn.h src/cairn/error.h
