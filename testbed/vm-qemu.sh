# shellcheck shell=bash disable=SC2154
# Part of testbed/vm: a guest under QEMU.  The kernel log comes over the serial line, the command's output over
# virtio-serial ports, the host's root over 9p.

# Hardware virtualisation where the processor and /dev/kvm both offer it; a /dev/kvm without is a trap.
accelerator()
{
	if [[ -n $icount ]]; then
		echo -accel tcg,thread=single -cpu max -icount shift=0,sleep=off
	elif [[ $arch != arm64 && -w /dev/kvm ]] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then
		echo -accel kvm -cpu host
	else
		echo -accel tcg,thread=multi -cpu max
	fi
}

# board: the program, and what machine it is to be
board()
{
	case $arch in
	arm64) echo qemu-system-aarch64 -M virt ;;
	*) echo qemu-system-x86_64 -M q35 ;;
	esac
}

# memory: each node's part, its share of the processors, and the DIMM that can be removed
memory()
{
	local node cpu slow=
	[[ $nodes -le $cpus ]] || slow=1
	echo "-m $((mem >> 20))M${hotplug:+,slots=1,maxmem=$(((mem + hotplug) >> 20))M}"
	for ((node = 0; node < nodes; node++)); do
		echo "-object memory-backend-ram,id=ram$node,size=$((mem / nodes))"
		echo "-numa node,nodeid=$node,memdev=ram$node${slow:+,initiator=$((node < cpus ? node : 0))}"
	done
	# Every processor is a socket, and no socket on two nodes; with more nodes than processors some have none.
	for ((cpu = 0; cpu < cpus; cpu++)); do
		node=$((nodes > cpus ? cpu : cpu * nodes / cpus))
		echo "-numa cpu,node-id=$node,socket-id=$cpu"
	done
	[[ -z $slow ]] || slow_memory
	[[ -z $hotplug ]] || echo "-object memory-backend-ram,id=dimm,size=$hotplug" \
		"-device pc-dimm,memdev=dimm,node=$((nodes - 1))"
}

# slow_memory: nodes without a processor are a lower memory tier, as the firmware's table of latencies says
slow_memory()
{
	local from to
	echo -machine hmat=on
	for ((from = 0; from < cpus; from++)); do
		for ((to = 0; to < nodes; to++)); do
			echo "-numa hmat-lb,hierarchy=memory,initiator=$from,target=$to,data-type=access-latency,latency=$((to < cpus ? 10 : 80))"
			echo "-numa hmat-lb,hierarchy=memory,initiator=$from,target=$to,data-type=access-bandwidth,bandwidth=$((to < cpus ? 8000 : 1000))M"
		done
	done
}

# port NAME ID: a virtio-serial port that writes to a file or pipe of the run
port()
{
	echo "-chardev file,id=$1,path=$run/$1 -device virtserialport,chardev=$1,name=$1"
}

boot()
{
	local options ports console=ttyS0,115200
	[[ $arch != arm64 ]] || console=ttyAMA0
	# While the guest finds its PCI devices it has one processor, to which init adds the others: QEMU 7.2 crashes
	# now and then when one of several moves a device's registers and another accesses some (a race of tcg_commit()
	# with the TLB of the other: memory_region_dispatch_write() is called for a region that is gone).
	[[ $cpus -eq 1 ]] || parameters+=" maxcpus=1"
	parameters+=" console=$console panic=-1 testbed_root=9p testbed_ports=out,err,status"
	# The local timer is found unfit when instructions are the clock, after ten seconds of looking at it.
	[[ -z $icount ]] || parameters+=" noapictimer"
	[[ -z $hotplug ]] || parameters+=" movable_node memhp_default_state=online_movable"
	read -r -d '' -a options < <(board; accelerator; memory) || true
	read -r -d '' -a ports < <(port out; port err; port status) || true
	exec "$@" "${options[@]}" -nodefaults -no-user-config -display none -no-reboot \
		-smp "$cpus,sockets=$cpus,cores=1,threads=1" -serial "file:$log" \
		-kernel "$image" -initrd "$BUILD/boot/initramfs-$host" -append "$parameters" \
		-virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
		-device virtio-serial "${ports[@]}"
}
