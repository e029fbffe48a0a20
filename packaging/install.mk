# `make install DESTDIR= PREFIX=/usr`: puts everything in its place on a master. To be included by a
# makefile that builds, or used by itself: make -f packaging/install.mk install.
# Run from the top of the source tree, after the programs were built.

DESTDIR ?=
PREFIX ?= /usr
# Where the host's programs were built, and the one that travels to the targets.
HOST_BUILD ?= build/dist
HELPER ?= build/dist/blat-target

INSTALL_PROGRAM = install -D -m 0755
INSTALL_FILE = install -D -m 0644
UNIT_DIR = $(DESTDIR)$(PREFIX)/lib/systemd/system

.PHONY: install install-programs install-units install-catalog install-examples install-words install-target

install: install-programs install-units install-catalog install-examples install-words

install-programs:
	$(INSTALL_PROGRAM) $(HOST_BUILD)/blat $(DESTDIR)$(PREFIX)/bin/blat
	$(INSTALL_PROGRAM) $(HOST_BUILD)/blat-agent $(DESTDIR)$(PREFIX)/lib/blat/blat-agent
	$(INSTALL_PROGRAM) $(HOST_BUILD)/blat-web $(DESTDIR)$(PREFIX)/lib/blat/blat-web
	$(INSTALL_PROGRAM) $(HOST_BUILD)/blat-generator $(DESTDIR)$(PREFIX)/lib/systemd/system-generators/blat-generator
	$(INSTALL_PROGRAM) $(HELPER) $(DESTDIR)$(PREFIX)/lib/blat/blat-target

# The units call the program where it was put. After a first install on a running system:
# systemd-sysusers; systemd-tmpfiles --create; systemctl restart systemd-sysctl; systemctl daemon-reload;
# systemctl preset blat.target blat-config.path blat-tag.socket blat-web.socket (the preset file names them).
install-units:
	for unit in units/*; do \
		$(INSTALL_FILE) "$$unit" "$(UNIT_DIR)/$${unit##*/}" || exit 1; \
		sed -i 's|=/usr/bin/blat |=$(PREFIX)/bin/blat |; s|=/usr/lib/blat/|=$(PREFIX)/lib/blat/|' "$(UNIT_DIR)/$${unit##*/}" || exit 1; \
	done
	$(INSTALL_FILE) packaging/preset/50-blat.preset $(DESTDIR)$(PREFIX)/lib/systemd/system-preset/50-blat.preset
	$(INSTALL_FILE) packaging/sysctl/50-blat.conf $(DESTDIR)$(PREFIX)/lib/sysctl.d/50-blat.conf
	$(INSTALL_FILE) packaging/sysusers/blat.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/blat.conf
	$(INSTALL_FILE) packaging/tmpfiles/blat.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/blat.conf

# What `journalctl -x` says beside the entries; afterwards: journalctl --update-catalog.
install-catalog:
	$(INSTALL_FILE) packaging/catalog/blat.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/blat.catalog

# For a target machine that an administrator manages: the helper, which its user's path finds (the
# master's configuration says `target.bin = "/usr/bin"`), and its units for the system.
install-target:
	$(INSTALL_PROGRAM) $(HELPER) $(DESTDIR)$(PREFIX)/bin/blat-target
	$(INSTALL_FILE) packaging/man/blat-target.1 $(DESTDIR)$(PREFIX)/share/man/man1/blat-target.1
	for unit in target/units/*.service target/units/*.timer; do \
		$(INSTALL_FILE) "$$unit" "$(UNIT_DIR)/$${unit##*/}" || exit 1; \
		sed -i 's|=/usr/bin/blat-target |=$(PREFIX)/bin/blat-target |' "$(UNIT_DIR)/$${unit##*/}" || exit 1; \
	done

# The folder is watched, so it is there from the start.
install-examples:
	install -d -m 0755 $(DESTDIR)/etc/blat/targets
	$(INSTALL_FILE) config/blat.toml $(DESTDIR)$(PREFIX)/share/doc/blat/blat.toml
	$(INSTALL_FILE) config/prometheus/blat.rules.yml $(DESTDIR)$(PREFIX)/share/doc/blat/prometheus/blat.rules.yml
	$(INSTALL_FILE) config/targets/example.toml $(DESTDIR)$(PREFIX)/share/doc/blat/targets/example.toml
	$(INSTALL_FILE) config/targets/bucket.toml $(DESTDIR)$(PREFIX)/share/doc/blat/targets/bucket.toml
	$(INSTALL_FILE) config/release_manager.sql $(DESTDIR)$(PREFIX)/share/doc/blat/release_manager.sql

# The man pages, what else there is to read, and what shells complete.
install-words:
	for page in $(filter-out %/blat-target.1, $(wildcard packaging/man/*)); do \
		$(INSTALL_FILE) "$$page" "$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}" || exit 1; \
	done
	for page in doc/*.md; do \
		$(INSTALL_FILE) "$$page" "$(DESTDIR)$(PREFIX)/share/doc/blat/$${page##*/}" || exit 1; \
	done
	install -d -m 0755 $(addprefix $(DESTDIR)$(PREFIX)/share/, bash-completion/completions fish/vendor_completions.d zsh/vendor-completions)
	$(HOST_BUILD)/blat completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/blat
	$(HOST_BUILD)/blat completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/blat.fish
	$(HOST_BUILD)/blat completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_blat
