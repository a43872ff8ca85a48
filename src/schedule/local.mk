libcore_la_SOURCES += src/schedule/order.c src/schedule/order.h src/schedule/schedule.c src/schedule/schedule.h src/schedule/simulate.c
