# shellcheck shell=bash disable=SC2034,SC2154
# Part of testbed/demo/guest: the programs whose memory is shared, and how to ask them whether they are well.

machines=3 databases=4
machine_pids=() database_pids=()
question=0

# within SECONDS COMMAND...: tries until it succeeds
within()
{
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[[ $SECONDS -lt $deadline ]] || return 1
		sleep 0.2
	done
}

# start_machines: virtual machines with a small Linux; QEMU itself offers their memory to KSM
start_machines()
{
	local vm khz
	khz=$("$tools/tsc")
	for ((vm = 1; vm <= machines; vm++)); do
		mkfifo "$work/vm$vm.in" "$work/vm$vm.out"
		cat "$work/vm$vm.out" >"$work/vm$vm.console" &
		qemu-system-x86_64 -accel tcg,tb-size=32 -M microvm,acpi=off -cpu qemu64 -m 96M -nodefaults -no-user-config \
			-display none -no-reboot -serial "pipe:$work/vm$vm" -kernel "$tools/kernel" \
			-initrd "$tools/initramfs" \
			-append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable tsc_early_khz=$khz" &
		machine_pids+=($!)
	done
}

wait_machines()
{
	local vm
	for ((vm = 1; vm <= machines; vm++)); do
		within 600 grep -q 'is up' "$work/vm$vm.console" || {
			event "virtual machine $vm did not come up; FAILED; its console:"
			cat "$work/vm$vm.console"
			exit 1
		}
		event "virtual machine $vm: Linux $(grep -a 'is up' "$work/vm$vm.console" | tr -d '\r')"
	done
}

redis()
{
	redis-cli -s "$work/redis$1" "${@:2}"
}

# start_databases: the same data set in each; all of their memory is offered through PR_SET_MEMORY_MERGE
start_databases()
{
	local db
	for ((db = 1; db <= databases; db++)); do
		"$tools/launch" redis-server --port 0 --unixsocket "$work/redis$db" --save '' --appendonly no \
			--enable-debug-command yes --dir "$work" --logfile "$work/redis$db.log" &
		database_pids+=($!)
	done
	for ((db = 1; db <= databases; db++)); do
		within 60 redis "$db" ping
		redis "$db" --pipe <"$tools/dataset" | grep -q 'errors: 0,' || {
			event "database $db did not take the data set; FAILED"
			exit 1
		}
		event "database $db: $(redis "$db" dbsize) keys"
	done
}

# pong VM: what a machine has answered to the last question
pong()
{
	grep -a "^pong $question .* -" "$work/vm$1.console" | tr -d '\r'
}

# machine_checksums: asks every virtual machine; a line for each that answers
machine_checksums()
{
	local vm answer
	question=$EPOCHREALTIME
	for ((vm = 1; vm <= machines; vm++)); do
		# Opened for reading too, a pipe with nobody at the other end does not block.
		echo "ping $question" 1<>"$work/vm$vm.in"
	done
	for ((vm = 1; vm <= machines; vm++)); do
		within 120 pong "$vm" || continue
		answer=$(pong "$vm")
		echo "vm$vm ${answer#"pong $question "}"
	done
}

# database_checksums: redis' own digest over all keys and values; a line for each database
database_checksums()
{
	local db
	for ((db = 1; db <= databases; db++)); do
		echo "db$db $(redis "$db" debug digest)"
	done
}
