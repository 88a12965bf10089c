# shellcheck shell=bash
# Running the programs beside this file, and reading what they print: lines of a name and a number.

# measure KERNEL OPTIONS PROGRAM ARGUMENTS...: runs it in a guest
measure()
{
	local kernel=$1 options=$2 program=$3
	shift 3
	# shellcheck disable=SC2086
	"$TOP/testbed/vm" --kernel "$kernel" $options -- "$BUILD/tests/$program" "$@"
}

# figure NAME FIGURES: its number, or nothing
figure()
{
	awk -v name="$1" '$1 == name { print $2 }' <<<"$2"
}
