# shellcheck shell=bash disable=SC2034,SC2154
# Part of testbed/demo/guest: who moves pages, and how many KSM pages each has moved.

blocks=/sys/devices/system/memory
declare -A title=(
	[compaction]='compaction'
	[processes]='migrate_pages(2) of the programs'
	[hotremove]='offlining the DIMM'
)
declare -A seen=() counted=()
dimm=()

# moving CALLER TEXT COMMAND...: runs it and adds up the KSM pages that moved meanwhile: those that were seen
# at another place afterwards, and the kernel's own count, where it has one
moving()
{
	local caller=$1 before after moved pids=("${machine_pids[@]}" "${database_pids[@]}")
	event "$2"
	shift 2
	"$tools/pages" save "$work/pages" "${pids[@]}"
	before=$(knob pages_migrated)
	"$@"
	after=$(knob pages_migrated)
	moved=$("$tools/pages" moved "$work/pages" "${pids[@]}")
	seen[$caller]=$((${seen[$caller]:-0} + moved))
	[[ $after == - ]] && counted[$caller]=- || counted[$caller]=$((${counted[$caller]:-0} + after - before))
	event "   $moved KSM pages seen at a new place"
}

# has_moved CALLER: it has moved KSM pages, and the kernel has counted some
has_moved()
{
	[[ ${seen[$1]} -gt 0 && ( ${counted[$1]} == - || ${counted[$1]} -gt 0 ) ]]
}

compact()
{
	local node
	for node in /sys/devices/system/node/node*/compact; do
		echo 1 >"$node"
	done
}

migrate()
{
	"$tools/migrate" "$1" "$2" "${machine_pids[@]}" "${database_pids[@]}"
}

# find_dimm: the memory blocks that can be removed; all that can be told from others while they are online
find_dimm()
{
	local zones
	for zones in "$blocks"/memory*/valid_zones; do
		[[ $(<"$zones") != Movable ]] || dimm+=("${zones%/*}")
	done
}

# ksm_on_dimm: how many KSM pages are on it now
ksm_on_dimm()
{
	local block first pages sum=0
	pages=$((0x$(<"$blocks/block_size_bytes") / 4096))
	for block in "${dimm[@]}"; do
		first=$((0x$(<"$block/phys_index") * pages))
		sum=$((sum + $("$tools/pages" count "$first" $((first + pages - 1)))))
	done
	echo "$sum"
}

# set_dimm offline|online_movable: all its blocks
set_dimm()
{
	local block
	for block in "${dimm[@]}"; do
		within 120 timeout 60 sh -c "echo $1 >$block/state" || event "   ${block##*/} does not go $1"
	done
}

# dimm_is offline|online: that is the state of all its blocks
dimm_is()
{
	local block
	[[ ${#dimm[@]} -gt 0 ]] || return 1
	for block in "${dimm[@]}"; do
		[[ $(<"$block/state") == "$1" ]] || return 1
	done
}
