# Owns one PostgreSQL server on behalf of the process at the other end of its
# standard input. That input ends with the process, whatever ended it, and then the
# server is stopped and its files are removed. The first line of input is the
# superuser's password; each one after it is a command. Every line is answered by
# "ok", or by what went wrong and "failed".
#
# Arguments: the directory of PostgreSQL's programs, that of the files, settings.
# Directories are tried in order: memory if it has the room, then disk.
bin=$1 memory=$2 disk=$3 settings=$4

dir=
finish() {
	[ -n "$dir" ] || return
	"$bin/pg_ctl" stop -D "$dir/data" -m immediate </dev/null >/dev/null 2>&1
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM PIPE

parent=$disk
if [ -n "$memory" ]; then
	free=$(df -Pk "$memory" 2>/dev/null | awk 'NR == 2 { print $4 }')
	[ "${free:-0}" -lt 1048576 ] || parent=$memory
fi

read -r password || exit 1
umask 077
if dir=$(mktemp -d "$parent/gatehouse-postgres-XXXXXXXX") &&
	printf '%s' "$password" >"$dir/password" &&
	"$bin/initdb" -D "$dir/data" -U postgres --pwfile "$dir/password" -A scram-sha-256 \
		-E UTF8 --locale C --no-sync </dev/null >"$dir/log" &&
	printf '%s\n' "$settings" >>"$dir/data/postgresql.conf"
then
	echo "$dir"
	echo ok
else
	echo failed
	exit 1
fi

while read -r command argument; do
	case $command in
	start)
		: >"$dir/log"
		"$bin/pg_ctl" start -D "$dir/data" -l "$dir/log" -o "-p $argument" </dev/null >/dev/null
		;;
	stop) "$bin/pg_ctl" stop -D "$dir/data" -m "$argument" </dev/null >/dev/null ;;
	*) false ;;
	esac
	if [ $? -eq 0 ]; then
		echo ok
	else
		tail -n 20 "$dir/log"
		echo failed
	fi
done
