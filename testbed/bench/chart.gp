# How many times better than stock, a bar for each scenario.  Variables: folder, where `bars` is; png, a terminal.
data = folder . '/bars'
stats data using 2 nooutput
rows = STATS_records
low = STATS_min < 0.6 ? STATS_min / 2 : 0.5
high = STATS_max > 50 ? STATS_max * 6 : 300
set title "How many times better than the stock kernel" font ",14"
set logscale x
set xrange [low:high]
set yrange [rows - 0.4:-0.6]
set style fill solid 0.8 noborder
set grid xtics linecolor rgb '#dddddd'
set border 3
set xtics nomirror
set ytics nomirror scale 0
set key below
set arrow from 1, graph 0 to 1, graph 1 nohead linecolor rgb '#444444' front
green = 0x3b7a57
red = 0xb5523b

height = 120 + 26 * rows
set terminal svg size 900, height font 'sans,12' background rgb 'white'
set output folder . '/bench.svg'
plot data using 2:0:(1):2:($0 - 0.35):($0 + 0.35):($2 < 1 ? red : green):ytic(1) \
         with boxxyerror linecolor rgb variable notitle, \
     data using (high):0:(strcol(4) . ' ') with labels right notitle, \
     data using 3:($0 - 0.45):(0):(0.9) with vectors nohead linecolor rgb 'black' linewidth 3 title 'owed'

eval sprintf("set terminal %s size 900, %d font 'sans,10'", png, height)
set output folder . '/bench.png'
replot
