package command_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// sentinels returns an answer that has every key of keys, with a text of its own for each
// string, data and free value, and adds what key each text stands for.
func sentinels(path string, keys []command.Key, texts map[string]string) string {
	var b strings.Builder
	for _, k := range keys {
		name, at := k.Name, path+"."+k.Name
		if strings.HasPrefix(name, "ANY") {
			name = "any" // a name of somebody's choice
		}
		fmt.Fprintf(&b, "<key>%s</key>%s", name, sentinel(at, k, texts))
	}
	return b.String()
}

func sentinel(at string, k command.Key, texts map[string]string) string {
	text := fmt.Sprintf("sentinel%04d", len(texts))
	switch k.Kind {
	case command.Dictionary:
		return "<dict>" + sentinels(at, k.Keys, texts) + "</dict>"
	case command.Array:
		var b strings.Builder
		for _, item := range k.Items {
			b.WriteString(sentinel(at, item, texts))
		}
		return "<array>" + b.String() + "</array>"
	case command.Data:
		texts[text] = at
		return "<data>" + base64.StdEncoding.EncodeToString([]byte(text)) + "</data>"
	case command.String, command.Any:
		texts[text] = at
		return "<string>" + text + "</string>"
	}
	return "<true/>"
}

// What a command's answer may show is reviewed in testdata/shown.txt, which -update rewrites:
// nothing there lets anybody into a device or an account.
func TestWhatAnswersShowOfEveryCommand(t *testing.T) {
	t.Parallel()
	var shown, hidden []string
	for _, typ := range command.Types() {
		texts := make(map[string]string)
		raw := answer(sentinels(typ.RequestType, typ.Response, texts))
		result, err := command.DecodeResult(raw, guard.PlistLimits{})
		if err != nil {
			t.Fatalf("%s: %v", typ.RequestType, err)
		}
		for text, at := range texts {
			encoded := base64.StdEncoding.EncodeToString([]byte(text))
			if bytes.Contains(result, []byte(text)) || bytes.Contains(result, []byte(encoded)) {
				shown = append(shown, at)
			} else {
				hidden = append(hidden, at)
			}
		}
	}
	slices.Sort(shown)
	slices.Sort(hidden)
	if want := []string{
		"ActivationLockBypassCode.ActivationLockBypassCode",
		"DeviceInformation.QueryResponses.PushToken",
		"ManagedApplicationList.ManagedApplicationList.ANY app identifier.UnusedRedemptionCode",
		"RequestUnlockToken.UnlockToken",
		"RotateFileVaultKey.RotateResult.EncryptedNewRecoveryKey",
		"SecurityInfo.SecurityInfo.FDE_PersonalRecoveryKeyCMS",
	}; !slices.Equal(hidden, want) {
		t.Errorf("hidden are %q, want %q", hidden, want)
	}
	const golden = "testdata/shown.txt"
	got := strings.Join(shown, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("answers show\n%s\nwant\n%s", got, want)
	}
}

func TestDecodeEntrusted(t *testing.T) {
	t.Parallel()
	data := func(key, text string) string {
		return "<key>" + key + "</key><data>" + base64.StdEncoding.EncodeToString([]byte(text)) + "</data>"
	}
	in := func(key, body string) string { return "<key>" + key + "</key><dict>" + body + "</dict>" }
	for name, tt := range map[string]struct {
		body string
		want *command.Entrusted
	}{
		"an answer without secrets":    {`<key>SecurityInfo</key><dict/>`, nil},
		"an unlock token":              {data("UnlockToken", "t"), &command.Entrusted{UnlockToken: []byte("t")}},
		"a bypass code":                {`<key>ActivationLockBypassCode</key><string>c</string>`, &command.Entrusted{BypassCode: "c"}},
		"a rotated key":                {in("RotateResult", data("EncryptedNewRecoveryKey", "k")), &command.Entrusted{RecoveryKeyCMS: []byte("k")}},
		"an escrowed key":              {in("SecurityInfo", data("FDE_PersonalRecoveryKeyCMS", "k")), &command.Entrusted{RecoveryKeyCMS: []byte("k")}},
		"a key elsewhere":              {in("Other", data("EncryptedNewRecoveryKey", "k")), nil},
		"a secret of another type":     {`<key>UnlockToken</key><string>t</string>`, nil},
		"a secret beyond its size":     {data("UnlockToken", strings.Repeat("t", 64<<10+1)), nil},
		"a dictionary of another type": {`<key>RotateResult</key><string>EncryptedNewRecoveryKey</string>`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := command.DecodeEntrusted(answer(tt.body), guard.PlistLimits{})
			if err != nil || (got == nil) != (tt.want == nil) {
				t.Fatalf("DecodeEntrusted = %+v, %v", got, err)
			}
			if got != nil && (string(got.UnlockToken) != string(tt.want.UnlockToken) || got.BypassCode != tt.want.BypassCode || string(got.RecoveryKeyCMS) != string(tt.want.RecoveryKeyCMS)) {
				t.Errorf("DecodeEntrusted holds other secrets than %s", tt.body)
			}
		})
	}
	if _, err := command.DecodeEntrusted([]byte("UnlockToken"), guard.PlistLimits{}); err == nil {
		t.Error("what is no property list is decoded")
	}
}

func TestEntrustedIsNotShown(t *testing.T) {
	t.Parallel()
	e := command.Entrusted{UnlockToken: []byte("sesame"), BypassCode: "sesame", RecoveryKeyCMS: []byte("sesame")}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "e", e, "p", &e)
	encoded, err := json.Marshal(struct{ E *command.Entrusted }{&e})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %v %s %s", e, e, e, e, &e, log.String(), encoded)
	for _, form := range []string{"sesame", "c2VzYW1l", "115 101 115"} {
		if strings.Contains(all, form) {
			t.Errorf("%q is shown in %s", form, all)
		}
	}
}

func TestAPasswordsHashIsOneThatAMacReads(t *testing.T) {
	t.Parallel()
	hash, err := command.HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Hash struct {
			Entropy    []byte `plist:"entropy"`
			Iterations int    `plist:"iterations"`
			Salt       []byte `plist:"salt"`
		} `plist:"SALTED-SHA512-PBKDF2"`
	}
	if err := guard.DecodePlist(hash, &list, guard.PlistLimits{}); err != nil {
		t.Fatal(err)
	}
	if len(list.Hash.Entropy) != 128 || len(list.Hash.Salt) != 32 || list.Hash.Iterations < 40_000 {
		t.Errorf("the hash has %d bytes after %d rounds with %d bytes of salt", len(list.Hash.Entropy), list.Hash.Iterations, len(list.Hash.Salt))
	}
	if bytes.Contains(hash, []byte("horse")) {
		t.Error("the password is in its hash")
	}
}

func TestAPasswordOrItsHash(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ in, wrong string }{
		"neither, which is filled in": {`{"GUID":"1"}`, ""},
		"a password":                  {`{"GUID":"1","password":"x"}`, ""},
		"a hash":                      {`{"GUID":"1","passwordHash":"eA=="}`, ""},
		"both":                        {`{"GUID":"1","passwordHash":"eA==","password":"x"}`, "params.password"},
		"an empty password":           {`{"GUID":"1","password":""}`, "params.password"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := command.Build("SetAutoAdminPassword", params(t, tt.in), uuid)
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.HasPrefix(err.Error(), tt.wrong+" ") {
				t.Errorf("Build(%s) = %v, want an error at %q", tt.in, err, tt.wrong)
			}
		})
	}
}
