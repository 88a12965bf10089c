# KSM for Linux 6.12: the commands of the project.  `make help` lists them.

KERNEL ?= ksm
Q := $(if $(V),,@)

help:
	@echo 'make run [KERNEL=stock]   boot it and show real programs share memory while their pages migrate'
	@echo 'make test [ONLY=NAMES]    every test; STOCK=1 runs our tests on the stock kernel instead; LONG=1 adds the long ones,'
	@echo '                          JITTER=1 has them stand still by chance'
	@echo 'make bench [SCENARIO=NAMES]  the speeds, against the stock kernel; FULL=1 adds the large sizes, ROUNDS=N'
	@echo 'make check                checkpatch, sparse, W=1, kernel-doc, a model, the configuration matrix'
	@echo 'make build                the kernels that make run and make test boot'
	@echo 'make series               patches with a cover letter, for git am, in build/series'
	@echo 'make deb [KCONFIG=FILE]   Debian packages of a kernel with the series, in build/deb'
	@echo 'make apply KSRC=DIR       lay the series over your own Linux 6.12 source'
	@echo 'make unapply KSRC=DIR     take it back'
	@echo 'make clean                remove everything generated'
	@echo 'testbed/vm --help         run a command of your own in a guest'

run:
	$(Q)testbed/setup
	$(Q)KERNEL=$(KERNEL) testbed/demo/run

test:
	$(Q)testbed/test $(ONLY)

bench:
	$(Q)testbed/bench/run $(SCENARIO)

check:
	$(Q)testbed/check

build:
	$(Q)testbed/setup
	$(Q)testbed/build x86_64-stock x86_64-ksm um-stock um-ksm x86_64-ksm-debug

series:
	$(Q)testbed/setup
	$(Q)testbed/series

deb:
	$(Q)testbed/setup --deb
	$(Q)KCONFIG='$(KCONFIG)' testbed/deb

apply unapply:
	$(Q)testbed/apply $@ '$(KSRC)'

clean:
	rm -rf build

.PHONY: help run test bench check build series deb apply unapply clean
