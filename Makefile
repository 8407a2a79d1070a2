# Each step of the gate by itself; .ci/run does them all, and says what each is for.
.PHONY: all $(shell .ci/run steps)
all:
	.ci/run
$(shell .ci/run steps):
	.ci/run $@
