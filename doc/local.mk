# Man pages and documents.
dist_man1_MANS += \
  doc/man/cairn.1 \
  doc/man/cairn-ckpt.1 \
  doc/man/cairn-config.1 \
  doc/man/cairn-data.1 \
  doc/man/cairn-doctor.1 \
  doc/man/cairn-eval.1 \
  doc/man/cairn-generate.1 \
  doc/man/cairn-plan.1 \
  doc/man/cairn-run.1 \
  doc/man/cairn-train.1 \
  doc/man/cairn-version.1
dist_man5_MANS = doc/man/cairn-config.5
dist_doc_DATA += README.md CHANGELOG.md doc/dependencies.md doc/design.md doc/gpu-notes.md doc/layouts.md doc/measurements.md doc/planning.md doc/formats/checkpoint.md \
  doc/formats/dataset.md doc/formats/events.md

# Renews the keys in the man page from the table that the command reads by; tests/cmd/man.t compares them. Not part of the build:
# a cross build cannot run the command.
.PHONY: update-man
update-man: cairn$(EXEEXT)
	sed '/begin of what cairn config/q' $(srcdir)/doc/man/cairn-config.5 > doc-config.tmp
	./cairn$(EXEEXT) config --roff >> doc-config.tmp
	sed -n '/end of what cairn config/,$$p' $(srcdir)/doc/man/cairn-config.5 >> doc-config.tmp
	mv doc-config.tmp $(srcdir)/doc/man/cairn-config.5
