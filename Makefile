# make demo          two real clusters on this machine with Spillway in front of them, until Ctrl-C
# make demo ONCE=1   the same, ends by itself; fails if anything that it shows did not work
# make test          everything that must hold before a change is taken
# make bench         the same loads directly, through HAProxy and through Spillway, in a quarter of an hour; see examples/bench
# make differential CASES=100000   random accounts and logins, the server against Spillway
# make chaos MINUTES=60   nodes killed, frozen, cut off, badly connected, drained and promoted under load, at
#                    random; SEED=7 in another order
# make fuzz MINUTES=60   every parser of bytes from outside, with what nobody would send, each for its share of the time;
#                    ONLY=sql one of them
# make servers       installs the servers and clients that demo and test need (Debian; as root); MySQL 9.7, MariaDB 11.8 and
#                    MariaDB 10.5 come into roots of their own under ~/.cache/spillway, and the tests of one that cannot be
#                    made are skipped

CARGO ?= cargo
export CASES SEED MINUTES ONCE ONLY PEERS ROUNDS SECONDS_EACH SERVER_PORT

.PHONY: demo bench test differential chaos fuzz programs servers

programs:
	@tests/setup/install.sh valgrind

servers: programs
	@tests/setup/root.sh --optional

demo: programs
	@$(CARGO) build --quiet --release --bin spillway --example demo
	@exec "$${CARGO_TARGET_DIR:-target}/release/examples/demo"

bench:
	@tests/setup/install.sh haproxy sysbench strace
	@$(CARGO) build --quiet --release --bin spillway --example bench
	@exec "$${CARGO_TARGET_DIR:-target}/release/examples/bench"

differential: servers
	$(CARGO) test --quiet --test integration -- differential --nocapture

chaos: servers
	MINUTES=$${MINUTES:-10} $(CARGO) test --quiet --test integration -- chaos --nocapture

fuzz:
	@CARGO="$(CARGO)" tests/fuzz/run.sh

test: servers
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --quiet
	$(CARGO) test
	@echo "the tests against real servers again, without shared links and with one worker, but for those of the control side"
	POOLING=off WORKERS=1 $(CARGO) test --quiet --test integration -- --skip chaos \
		$(addprefix --skip ,handover:: mysql_replication:: discovery:: probes:: roles::)
