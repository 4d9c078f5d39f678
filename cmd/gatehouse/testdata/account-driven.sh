#!/bin/sh
# Account-driven enrollment as Apple documents it, with curl, openssl and strongSwan's pki:
# nothing here shares a line with the server, or with the simulated device.
#
# It reads from the environment
#   SERVER      where the domain of the identifier is served
#   IDENTIFIER  what a person types on the device
#   LOGIN, PASSWORD  by which that person signs in
#   FAMILY      model family; VERSION, what discovery is to answer; METHOD, of the sign-in
# and says "ok" for each step. It stops at the first that does not end as documented.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

die() { echo "FAILED: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }
# request writes headers to head and the body to body, and prints the status.
request() { curl -sS -o body -D head -w '%{http_code}' "$@"; }
header() { tr -d '\r' <head | sed -n "s/^$1: //Ip" | head -n 1; }
# value prints what a property list in a file says of a key.
value() { tr -d '\n' <"$1" | sed 's/<key>/\n<key>/g' | sed -n "s|^<key>$2</key>[[:space:]]*<[a-z]*>\([^<]*\)<.*|\1|p" | head -n 1; }
# parameter prints one of a challenge.
parameter() { printf '%s' "$challenge" | grep -o "$1=\"[^\"]*\"" | sed 's/^[^"]*"//; s/"$//'; }
unescape() { sed 's/&amp;/\&/g; s/&#43;/+/g; s/&#34;/"/g; s/&lt;/</g; s/&gt;/>/g'; }
field() { sed -n "s/.*name=\"$1\" value=\"\([^\"]*\)\".*/\1/p" "$2" | unescape | head -n 1; }

# --- Service discovery. The client takes what is behind the last @ for the domain, and
# sends the identifier as it was typed.
well_known=$SERVER/.well-known/com.apple.remotemanagement
status=$(request "$well_known?user-identifier=$IDENTIFIER&model-family=$FAMILY")
[ "$status" = 200 ] || die "discovery: $status $(cat body)"
[ "$(header Content-Type)" = application/json ] || die "discovery's type is $(header Content-Type)"
[ "$(grep -o '"Version"' body | wc -l)" = 1 ] || die "discovery names not one server: $(cat body)"
version=$(sed -n 's/.*"Version":"\([^"]*\)".*/\1/p' body)
base=$(sed -n 's/.*"BaseURL":"\([^"]*\)".*/\1/p' body)
[ "$version" = "$VERSION" ] || die "discovery answers $version"
ok "discovery: $version"
[ "$(request "$well_known.?user-identifier=$IDENTIFIER&model-family=$FAMILY")" = 200 ] || die "no file with a trailing dot"
[ "$(request -I "$well_known?user-identifier=$IDENTIFIER&model-family=$FAMILY")" = 200 ] || die "HEAD is refused"
[ "$(request "$well_known?user-identifier=ana@elsewhere.invalid&model-family=$FAMILY")" = 403 ] || die "a foreign domain is served"
grep -q '"com.apple.well-known.failed"' body || die "a foreign domain is refused without the code: $(cat body)"
ok "discovery refuses a foreign domain"

# --- The enrollment POST: MachineInfo, signed by an identity that the device was made with.
openssl req -x509 -newkey rsa:2048 -nodes -keyout built-in.key -out built-in.pem -subj /CN=device -days 30 2>/dev/null
udid=$(openssl rand -hex 16 | tr a-f A-F)
product=${FAMILY}17,2
cat >machine.plist <<PLIST
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>LANGUAGE</key><string>en-US</string><key>PRODUCT</key><string>$product</string><key>VERSION</key><string>23A300</string></dict></plist>
PLIST
openssl cms -sign -nodetach -binary -in machine.plist -signer built-in.pem -inkey built-in.key -outform DER -out machine.der
post() { request -H 'Content-Type: application/pkcs7-signature' --data-binary "@$1" "$base" ${2:+-H "Authorization: Bearer $2"}; }
[ "$(post machine.plist)" = 400 ] || die "MachineInfo without a signature is not refused: $(cat body)"
[ "$(post machine.der)" = 401 ] || die "the first POST is not challenged: $(cat body)"
challenge=$(header WWW-Authenticate)
[ "${challenge%% *}" = Bearer ] || die "the challenge is $challenge"
[ "$(parameter method)" = "$METHOD" ] || die "the method is $(parameter method)"
[ "$(post machine.der not-a-token)" = 401 ] || die "a bad token is not challenged again"
ok "the first POST is challenged: $METHOD"

# --- The web sign-in. The browser view keeps cookies; what the device sends has none.
browse() { request -b jar -c jar "$@"; }
if [ "$METHOD" = apple-as-web ]; then
	page="$(parameter url)?user-identifier=$IDENTIFIER"
else
	state=$(cat /proc/sys/kernel/random/uuid)
	redirect=$(parameter redirect-url) client=$(parameter client-id)
	[ "${redirect%%:*}" = apple-remotemanagement-user-login ] || die "the redirect-url is $redirect"
	escaped=$(printf '%s' "$redirect" | sed 's/:/%3A/g; s|/|%2F|g')
	authorize=$(parameter authorization-url)
	[ "$(browse "$authorize?response_type=code&client_id=$client&redirect_uri=https%3A%2F%2Fevil.example&state=$state")" -ge 400 ] || die "a tampered redirect_uri is served"
	[ -z "$(header Location)" ] || die "a tampered redirect_uri is redirected to $(header Location)"
	page="$authorize?response_type=code&client_id=$client&redirect_uri=$escaped&state=$state&login_hint=$IDENTIFIER"
fi
status=$(browse "$page")
for hop in 1 2 3 4 5; do
	case $status in 302 | 303 | 307) ;; *) break ;; esac
	page=$(header Location)
	case $page in /*) page=$SERVER$page ;; esac
	status=$(browse "$page")
done
[ "$status" = 200 ] || die "the sign-in page: $status $(cat body)"
cp body login.html
grep -q "value=\"$IDENTIFIER\"" login.html || die "the identifier is not filled in"
[ "$(browse --data-urlencode "email=$LOGIN" --data-urlencode "password=wrong" --data-urlencode "next=$(field next login.html)" "$SERVER/login")" = 401 ] || die "a wrong password: $(cat body)"
status=$(browse --data-urlencode "email=$LOGIN" --data-urlencode "password=$PASSWORD" --data-urlencode "next=$(field next login.html)" "$SERVER/login")
while [ "$status" = 302 ] || [ "$status" = 303 ]; do
	page=$(header Location)
	case $page in /*) page=$SERVER$page ;; esac
	status=$(browse "$page")
done
[ "$status" = 308 ] || die "the sign-in ends with $status $(cat body)"
back=$(header Location)
ok "signed in"

if [ "$METHOD" = apple-as-web ]; then
	case $back in apple-remotemanagement-user-login://authentication-results\?access-token=*) ;; *) die "handed back to ${back%%\?*}" ;; esac
	token=${back#*access-token=}
else
	[ "${back%%\?*}" = "$redirect" ] || die "handed back to ${back%%\?*}"
	query="&${back#*\?}&"
	case $query in *"&state=$state&"*) ;; *) die "the state is another one" ;; esac
	code=$(printf '%s' "$query" | sed 's/.*&code=\([^&]*\)&.*/\1/')
	exchange() { request -d grant_type=authorization_code --data-urlencode "code=$1" --data-urlencode "redirect_uri=$redirect" -d "client_id=$client" "$(parameter token-url)"; }
	[ "$(exchange not-a-code)" = 400 ] && grep -q '"invalid_grant"' body || die "a bad code: $(cat body)"
	[ "$(exchange "$code")" = 200 ] || die "the code: $(cat body)"
	grep -q '"token_type":"Bearer"' body && grep -q '"expires_in":[0-9]' body || die "the answer has no type or life"
	refresh=$(sed -n 's/.*"refresh_token":"\([^"]*\)".*/\1/p' body)
	[ "$(request -d grant_type=refresh_token -d "refresh_token=$refresh" -d "client_id=$client" "$(parameter token-url)")" = 200 ] || die "refresh: $(cat body)"
	token=$(sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p' body)
	ok "exchanged the code, and refreshed"
fi

# --- The second POST: the same, with the token.
[ "$(post machine.der "$token")" = 200 ] || die "the second POST: $(cat body)"
[ "$(header Content-Type)" = application/x-apple-aspen-config ] || die "the profile's type is $(header Content-Type)"
openssl cms -verify -noverify -inform DER -in body -out profile.plist 2>/dev/null || die "the profile is not signed"
account=$(value profile.plist AssignedManagedAppleID)
case $account in *@*) ;; *) die "AssignedManagedAppleID is \"$account\"" ;; esac
if [ "$VERSION" = mdm-byod ]; then
	[ "$(value profile.plist EnrollmentMode)" = BYOD ] || die "EnrollmentMode is $(value profile.plist EnrollmentMode)"
	! grep -q AccessRights profile.plist || die "a BYOD profile has AccessRights: the device cancels"
	who="<key>EnrollmentID</key><string>$udid</string>"
else
	[ "$(value profile.plist EnrollmentMode)" = ADDE ] || die "EnrollmentMode is $(value profile.plist EnrollmentMode)"
	[ -n "$(value profile.plist AccessRights)" ] || die "an ADDE profile has no AccessRights"
	who="<key>UDID</key><string>$udid</string><key>SerialNumber</key><string>C02TEST00001</string>"
fi
ok "the profile is for $account"

# --- The identity, by SCEP.
pki --gen --type rsa --size 2048 --outform pem >identity.key
scep=$(value profile.plist URL)
(mkdir ca && cd ca && pki --scepca --url "$scep" --caout ca.pem --outform pem >/dev/null)
authority=$(find ca -type f | head -n 1)
pki --scep --url "$scep" --in identity.key --dn "CN=device" --password "$(value profile.plist Challenge)" \
	--cacert-enc "$authority" --cacert-sig "$authority" --cacert "$authority" --outform pem >identity.pem 2>pki.log || die "SCEP: $(cat pki.log)"
ok "has its identity"

# --- Check-in and commands. Every message is signed, and shows the token.
message() { printf '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict>%s</dict></plist>\n' "$1" >message.plist; }
put() {
	openssl cms -sign -binary -in message.plist -signer identity.pem -inkey identity.key -outform DER -out message.der
	request -X PUT -H "Content-Type: $2" -H "Mdm-Signature: $(openssl base64 -A -in message.der)" ${3:+-H "Authorization: Bearer $3"} --data-binary @message.plist "$1"
}
check_in() { put "$(value profile.plist CheckInURL)" application/x-apple-aspen-mdm-checkin "${1-}"; }
connect() { put "$(value profile.plist ServerURL)" application/x-apple-aspen-mdm "${1-}"; }
topic=$(value profile.plist Topic)
message "<key>MessageType</key><string>Authenticate</string><key>Topic</key><string>$topic</string><key>ProductName</key><string>$product</string><key>OSVersion</key><string>26.0</string>$who"
[ "$(check_in)" = 403 ] || die "Authenticate without a token"
[ "$(check_in "$token")" = 200 ] || die "Authenticate: $(cat body)"
message "<key>MessageType</key><string>TokenUpdate</string><key>Topic</key><string>$topic</string><key>PushMagic</key><string>magic</string><key>Token</key><data>dG9rZW4=</data>$who"
[ "$(check_in "$token")" = 200 ] || die "TokenUpdate: $(cat body)"
message "<key>Status</key><string>Idle</string>$who"
[ "$(connect "$token")" = 200 ] && [ ! -s body ] || die "the first poll: $(cat body)"
status=$(connect)
[ "$status" = 403 ] && [ -z "$(header WWW-Authenticate)" ] || die "a poll without a token: $status"
[ "$(connect not-a-token)" = 401 ] || die "a poll with a bad token"
challenge=$(header WWW-Authenticate)
[ "$(parameter method)" = "$METHOD" ] || die "a bad token is answered by a bare 401: the device would leave"
[ "$(connect "$token")" = 200 ] || die "the next poll: $(cat body)"
ok "enrolled: $udid"
message "<key>MessageType</key><string>CheckOut</string><key>Topic</key><string>$topic</string>$who"
[ "$(check_in "$token")" = 200 ] || die "CheckOut: $(cat body)"
message "<key>Status</key><string>Idle</string>$who"
[ "$(connect "$token")" = 403 ] && grep -q com.apple.unrecognized.device body || die "a poll after removal: $(cat body)"
[ "$(post machine.der "$token")" = 401 ] || die "the token is good after removal"
ok "removed"
