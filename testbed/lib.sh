# shellcheck shell=bash
# What every script of the testbed shares: where things are, and how to say something.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$TOP/build
# shellcheck disable=SC2034
TARBALL=${LINUX_SOURCE:-/usr/src/linux-source-6.12.tar.xz}
export LC_ALL=C.UTF-8
mkdir -p "$BUILD/lock"

# say TEXT...: one line about what is going on, with the time since the script began
say()
{
	printf '[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*" >&2
}

# with_progress WHAT LOG MAKE...: a line about how far that is now and then; all it says is added to LOG
with_progress()
{
	local what=$1 log=$2 count=0 line start=$SECONDS next=$((SECONDS + 10))
	shift 2
	while IFS= read -r line; do
		[[ $line == "  "[A-Z]* ]] || continue
		count=$((count + 1))
		if [[ $SECONDS -ge $next ]]; then
			say "$what: compiling, step $count, ${line##* }"
			next=$((SECONDS + 10))
		fi
	done < <("$@" 2>&1 | tee -a "$log")
	wait "$!" || return
	say "$what: compiled, $count steps in $((SECONDS - start)) s"
}

# die [-STATUS] TEXT...: one line about what went wrong, and out
die()
{
	local status=1
	if [[ $1 == -[0-9]* ]]; then
		status=${1#-}
		shift
	fi
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit "$status"
}

# lost_options WANTED CONFIG: the options of one file that have not come true in the other
lost_options()
{
	local line
	while IFS= read -r line; do
		case $line in
		CONFIG_*=n) ! grep -q "^${line%n}" "$2" || echo "$line" ;;
		CONFIG_*) grep -qxF "$line" "$2" || echo "$line" ;;
		esac
	done <"$1"
}

# cross ARCH: what the names of its compiler and the like begin with, if it is not this machine's
cross()
{
	case $1 in
	arm64) echo aarch64-linux-gnu- ;;
	i386) echo i686-linux-gnu- ;;
	esac
}

# header NAME FIELD: what a test's source says of it after "/* FIELD:", one a line
header()
{
	local source=$TOP/tools/testing/selftests/vm/$1.c
	[[ ! -f $source ]] || sed -n "s|^/\* $2: *\(.*[^ ]\) *\*/.*|\1|p" "$source"
}
