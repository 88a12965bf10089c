# Counts one program's TAP output: prints "PASSED FAILED SKIPPED", a line of what was skipped and why, then one for each
# failure.
# status: its exit status; may_fail in the environment: names, one a line, whose failure counts as skipped.
BEGIN {
	count = split(ENVIRON["may_fail"], names, "\n")
	for (i = 1; i <= count; i++)
		excused[names[i]]
}

function name(line)
{
	sub(/^(not )?ok[ \t]+[0-9]*[ \t]*(- )?/, "", line)
	sub(/[ \t]*#.*/, "", line)
	return line
}

# What comes after "# SKIP" is the name of one of our tests, and of others' the reason
function skip(what, reason)
{
	sub(/.*# *SKIP */, "", what)
	skips = skips (skips ? ", " : "") what (reason ? " (" reason ")" : "")
}

/^1\.\.[0-9]+/ { planned = substr($1, 4) + 0; has_plan = 1 }
/^# skipped: / { why = substr($0, 12) }
/^1\.\.0 .*# *SKIP/ { skip($0, why) }
# A number that comes twice, from a child that went on where it should not have, counts once: as the worse of the two.
/^ok / {
	if (!($2 in result)) {
		result[$2] = /# *SKIP/ ? "skipped" : "passed"
		if (result[$2] == "skipped")
			skip($0, why)
	}
	why = ""
}
/^not ok / {
	result[$3] = name($0) in excused ? "skipped" : "failed"
	if (result[$3] == "failed")
		failures[++failed] = $0
	else
		skip(name($0), "fails on stock")
	why = ""
}
/^Bail out!/ { failures[++failed] = $0 }

END {
	for (number in result) {
		passed += result[number] == "passed"
		skipped += result[number] == "skipped"
	}
	seen = passed + failed + skipped
	if (!seen && (has_plan ? !planned : status == 4))
		skipped = 1
	else if (!has_plan)
		failures[++failed] = "no plan"
	else if (planned > seen)
		failures[failed += planned - seen] = "only " seen " of " planned " planned tests ended"
	else if (planned < seen)
		failures[++failed] = seen " tests, where " planned " were planned"
	if (status == 124)
		failures[++failed] = "did not end in time"
	else if (status != 0 && status != 4 && !failed && !(skipped && count))
		failures[++failed] = "exit status " status
	print passed + 0, failed + 0, skipped + 0
	print skips ? skips : "no reason given"
	for (i = 1; i <= failed; i++)
		if (i in failures)
			print "        " failures[i]
}
