# shellcheck shell=bash
# The series as files: what a kernel tree looks like with our work in it, and laying that over a tree.
# A stage is a folder that holds every file the series adds or changes, whole, and nothing else.

SERIES_FOLDERS=(mm include tools Documentation)

# patched_files PATCH: the files it changes
patched_files()
{
	sed -n 's|^+++ b/\([^[:space:]]*\).*|\1|p' "$1"
}

# stage_patch TREE STAGE PATCH: applies it to what STAGE, or else TREE, has.
# Says on which file it fails, and fails, if it does not apply.
stage_patch()
{
	local tree=$1 stage=$2 patch=$3 file output
	for file in $(patched_files "$patch"); do
		if [[ -e $TOP/$file ]]; then
			die "${patch#"$TOP"/} changes $file, which is a file of ours: change it there"
		fi
		if [[ ! -e $stage/$file && -e $tree/$file ]]; then
			mkdir -p "$stage/${file%/*}"
			cp "$tree/$file" "$stage/$file"
		fi
	done
	output=$(patch -p1 -F0 -N -d "$stage" --no-backup-if-mismatch <"$patch" 2>&1) && return
	file=$(cd "$stage" && find . -name '*.rej' | sed 's|^\./||; s|\.rej$||' | paste -sd ' ')
	die "${patch#"$TOP"/} does not apply to ${file:-a file that is missing} in" \
		"Linux $(make -s -C "$tree" kernelversion):"$'\n'"$output"
}

# stage_series TREE STAGE: fills STAGE from our files and the patches, applied to what TREE has; but
# pages and pictures are for those who look at the repository
stage_series()
{
	local tree=$1 stage=$2 folder patch
	for folder in "${SERIES_FOLDERS[@]}"; do
		[[ ! -d $TOP/$folder ]] ||
			rsync -r --exclude='*.o' --exclude='*~' --exclude='.*' --exclude='*.md' --exclude='*.svg' "$TOP/$folder" "$stage/"
	done
	for patch in "$TOP"/patches/*.patch; do
		[[ ! -e $patch ]] || stage_patch "$tree" "$stage" "$patch"
	done
}

# put FILE DESTINATION: replaces it in one step, never writing through a hard link, with the time of now
put()
{
	mkdir -p "${2%/*}"
	cp "$1" "$2.new"
	mv "$2.new" "$2"
}

# lay_stage STAGE TREE PRISTINE: makes TREE equal PRISTINE with STAGE over it, where it is not already.
# TREE/.series lists the files that may differ from PRISTINE; what does not change keeps its time.
lay_stage()
{
	local stage=$1 tree=$2 pristine=$3 file list
	list=$tree/.series
	touch "$list"
	(cd "$stage" && find . -type f | sed 's|^\./||') >"$list.new"
	sort -u "$list" "$list.new" -o "$list"
	while read -r file; do
		if [[ -e $stage/$file ]]; then
			cmp -s "$stage/$file" "$tree/$file" || put "$stage/$file" "$tree/$file"
		elif [[ -e $pristine/$file ]]; then
			cmp -s "$pristine/$file" "$tree/$file" || put "$pristine/$file" "$tree/$file"
		else
			rm -f "$tree/$file"
		fi
	done <"$list"
	mv "$list.new" "$list"
}

# copy_tree FROM TO: a tree with hard links to the source of another, and a copy of its objects, if it has any
copy_tree()
{
	local from=$1 to=$2
	rm -rf "$to" "$to.new"
	mkdir "$to.new"
	find "$from" -mindepth 1 -maxdepth 1 ! -name out ! -name '.[bps]*' -exec cp -al -t "$to.new" {} +
	[[ ! -f $from/.series ]] || cp "$from/.series" "$to.new"
	[[ ! -d $from/out ]] || copy_objects "$from/out" "$to.new/out" "$to/out"
	mv "$to.new" "$to"
}

# copy_objects FROM TO [NAME]: so that nothing is compiled again for being in another folder, called NAME in the
# end.  The commands that built objtool, on which every object depends, name theirs and the tree in full.
copy_objects()
{
	local from=$1 to=$2 name=${3-$2}
	cp -a --reflink=auto "$from" "$to"
	{ grep -rlZF "${from%/*}/" "$to" --include='*.cmd' || :; } |
		xargs -0r sed -i "s|$from/|$name/|g; s|${from%/*}/|${name%/*}/|g"
}
