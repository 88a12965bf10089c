# shellcheck shell=bash disable=SC2154
# Part of testbed/vm: a guest as User Mode Linux, a process of this machine.  The kernel log comes over its
# standard error, the command's output over serial lines, the host's root through hostfs.

# Every page that differs from its neighbours in where it is or how it may be used is a mapping of the host's.
allow_mappings()
{
	local limit=/proc/sys/vm/max_map_count wanted=$((mem / 2048 + 65536))
	[[ $(<$limit) -lt $wanted ]] || return 0
	if [[ -w $limit ]]; then
		echo "$wanted" >$limit
	else
		say "vm.max_map_count is $(<$limit): areas of 1G, or scattered by merging, need $wanted"
	fi
}

# The guest is one processor, but two processes here that wake each other at every trap of a program's: on two
# processors a page fault takes 16 times as long where waking an idle one is slow.
one_cpu()
{
	local cpus
	cpus=$(taskset -cp $BASHPID)
	echo "${cpus##*[-,: ]}"
}

boot()
{
	# The guest's memory is a file there, which has to be in memory and mapped executable.
	[[ -w /dev/shm ]] && export TMPDIR=/dev/shm
	export GLIBC_TUNABLES=glibc.pthread.rseq=0
	parameters+=" testbed_root=hostfs testbed_ports=/dev/ttyS0,/dev/ttyS1,/dev/ttyS2"
	# shellcheck disable=SC2086
	exec taskset -c "$(one_cpu)" "$@" "$image" mem="$((mem >> 20))M" initrd="$BUILD/boot/initramfs-$host" $parameters \
		con=null con0=null,fd:2 console=tty0 ssl=null ssl0=null,fd:3 ssl1=null,fd:4 ssl2=null,fd:5 \
		3>"$run/out" 4>"$run/err" 5>"$run/status" >"$log" 2>&1 </dev/null
}

allow_mappings
