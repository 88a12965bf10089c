# The medians of what was measured, as a table and as CSV, and whether what is owed is reached.
# Input: lines of scenario, kernel, value; then the file `scenarios`.
# Variables: rounds; csv, bars: files to write, for others and for the chart.

function median(name, kernel,	n, i, j, sorted, value)
{
	n = count[name, kernel]
	if (n < rounds)
		return "-"
	for (i = 1; i <= n; i++) {
		value = values[name, kernel, i]
		for (j = i - 1; j > 0 && sorted[j] > value; j--)
			sorted[j + 1] = sorted[j]
		sorted[j + 1] = value
	}
	return (sorted[int((n + 1) / 2)] + sorted[int(n / 2) + 1]) / 2
}

# Three digits and all that are before the point
function short(value)
{
	if (value == "-")
		return value
	if (value >= 100)
		return sprintf("%.0f", value)
	return sprintf("%.3g", value)
}

# What was not measured is "-" or, if it was not asked for, nothing.
function divide(a, b)
{
	return a == "-" || b == "-" || b == "" || b == 0 ? "-" : a / b
}

# Whether it holds, and what it says of which number
function owes(text, name, ratio,	part, value)
{
	split(text, part, " ")
	if (part[1] == "ratio")
		value = ratio
	else if (part[1] == "ksm")
		value = of["ksm", name]
	else if (part[1] == "ksm/stock")
		value = divide(of["ksm", name], of["stock", name])
	else
		value = divide(of["ksm", name], of["ksm", substr(part[1], 5)])
	verdict = value == "-" ? "not measured" : \
		(part[2] == ">=" ? value >= part[3] : value <= part[3]) ? "ok" : "NOT REACHED"
	return sprintf("owed %s %s %s: %s %s", part[1], part[2], part[3], short(value), verdict)
}

FNR == 1 {
	file++
}

file == 1 {
	if ($3 != "-")
		values[$1, $2, ++count[$1, $2]] = $3 + 0
	seen[$1] = 1
	next
}

/^#/ || !NF {
	next
}

{
	split($0, field, / *[|] */)
	name = field[1]
	if (!(name in seen))
		next
	names[++rows] = name
	line[name] = $0
	of["stock", name] = median(name, "stock")
	of["ksm", name] = median(name, "ksm")
}

END {
	print "scenario,unit,where,stock,ksm,ratio,better" >csv
	printf "" >bars
	printf "Medians of %d round%s, stock and ksm in turn.  ratio: how many times better ksm is", rounds, rounds == 1 ? "" : "s"
	print " (ksm/stock where higher is better, stock/ksm where lower is)\n"
	form = "%-20s %-13s %-7s %12s %12s %9s  %-7s  %s\n"
	printf form, "scenario", "unit", "where", "stock", "ksm", "ratio", "better", ""
	for (i = 1; i <= rows; i++) {
		name = names[i]
		split(line[name], field, / *[|] */)
		stock = of["stock", name]
		ksm = of["ksm", name]
		ratio = field[4] == "higher" ? divide(ksm, stock) : divide(stock, ksm)
		text = field[5] == "-" ? "" : owes(field[5], name, ratio)
		reached += text ~ /ok$/
		missed += text ~ /NOT REACHED$/
		printf form, name, field[2], field[3], short(stock), short(ksm), short(ratio), field[4], text
		printf "%s,%s,%s,%s,%s,%s,%s\n", name, field[2], field[3], stock, ksm, ratio, field[4] >csv
		if (ratio != "-")
			printf "%s %g %s %s\n", name, ratio, field[5] ~ /^ratio/ ? substr(field[5], 10) : "NaN", short(ratio) >bars
	}
	printf "\n%d figures of what is owed reached, %d not\n", reached, missed
}
