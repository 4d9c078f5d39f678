# Owns one slapd on behalf of the process at the other end of its standard input. That
# input ends with the process, whatever ended it, and then the server is stopped and its
# files are removed.
#
# Arguments: slapd, the directory with slapd.conf and content.ldif, the URLs to listen at.
slapd=$1 dir=$2 urls=$3

finish() {
	[ -s "$dir/pid" ] && kill "$(cat "$dir/pid")"
	rm -rf "$dir"
}
trap finish EXIT
trap '' INT # of the terminal: it ends the other process, too
trap 'exit 1' HUP TERM PIPE

# slapd goes into the background once it has its ports.
if "$slapd" -T add -q -f "$dir/slapd.conf" -l "$dir/content.ldif" </dev/null >"$dir/log" 2>&1 &&
	"$slapd" -f "$dir/slapd.conf" -h "$urls" </dev/null >>"$dir/log" 2>&1
then
	echo ok
else
	cat "$dir/log"
	echo failed
	exit 1
fi
read -r _
