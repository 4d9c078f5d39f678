package inventory_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// all is what a phone of the organisation's says.
var all = answers{
	"DeviceInformation":        `{"QueryResponses":{"DeviceName":"Phone 7","OSVersion":"18.2","IsSupervised":true,"BatteryLevel":0.5,"SerialNumber":"C02X"}}`,
	"SecurityInfo":             `{"SecurityInfo":{"PasscodePresent":true,"ManagementStatus":{"IsUserEnrollment":false}}}`,
	"ManagedApplicationList":   `{"ManagedApplicationList":{"com.tinyspeck.slack":{"Status":"Managed","ManagementFlags":1,"HasConfiguration":true,"HasFeedback":false}}}`,
	"InstalledApplicationList": `{"InstalledApplicationList":[{"Identifier":"com.tinyspeck.slack","Name":"Slack","ShortVersion":"4.41","Version":"441","BundleSize":1000},{"Identifier":"com.example.notes","Name":"Notes","Version":"3"}]}`,
	"ProfileList":              `{"ProfileList":[{"PayloadIdentifier":"com.example.wifi","PayloadUUID":"U1","PayloadDisplayName":"Wi-Fi","IsManaged":true,"PayloadContent":[{"PayloadType":"com.apple.wifi.managed","PayloadIdentifier":"com.example.wifi.1"}]}]}`,
	"CertificateList":          `{"CertificateList":[{"CommonName":"Gatehouse","IsIdentity":true,"Data":"AAEC"}]}`,
}

// but returns answers with one replaced.
func (a answers) but(source inventory.Source, say string) answers {
	b := answers{}
	for k, v := range a {
		b[k] = v
	}
	b[string(source)] = say
	return b
}

func TestWhatADeviceSaysIsKeptWithItsSourceAndTime(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	o := h.refresh(t, id, all)
	if len(o.Queued) != 6 || len(o.LeftOut) > 0 || len(o.Waiting) > 0 {
		t.Fatalf("Refresh = %+v, want six questions", o)
	}
	in, err := h.Inventory(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range in.Reports {
		if r.Answer.CommandUUID != o.Queued[i].CommandUUID || !r.Answer.AnsweredAt.Equal(h.now) || !r.Answer.AskedAt.Equal(h.now.Add(-time.Second)) || r.Failure != nil || r.Waiting != nil {
			t.Errorf("%s is known from %+v, want from %s at %v", r.Source, r.Answer, o.Queued[i].CommandUUID, h.now)
		}
	}
	if in.ManagedOnly || in.Reports[3].Count != 2 {
		t.Errorf("there are %d apps, only managed ones: %v", in.Reports[3].Count, in.ManagedOnly)
	}
	apps, _, _, err := h.Apps(context.Background(), id)
	if err != nil || len(apps) != 2 || apps[1].Identifier != "com.tinyspeck.slack" || apps[1].Managed == nil || apps[1].Managed.Status != "Managed" || apps[0].Managed != nil || apps[1].BundleSize != 1000 {
		t.Errorf("Apps = %+v, %v", apps, err)
	}
	profiles, _, err := h.Profiles(context.Background(), id)
	if err != nil || len(profiles) != 1 || profiles[0].DisplayName != "Wi-Fi" || profiles[0].IsManaged == nil || len(profiles[0].Payloads) != 1 {
		t.Errorf("Profiles = %+v, %v", profiles, err)
	}
	certificates, origin, err := h.Certificates(context.Background(), id)
	if err != nil || len(certificates) != 1 || certificates[0].Subject != "" || len(certificates[0].SHA256) != 64 || !origin.AnsweredAt.Equal(h.now) {
		t.Errorf("Certificates = %+v of %+v, %v", certificates, origin, err)
	}
	if _, err := h.Inventory(context.Background(), "nobody"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Inventory of nobody: %v, want ErrNotFound", err)
	}
	if got := h.changes(t, id); len(got) > 0 {
		t.Errorf("the first answers have a history: %q", got)
	}
}

func TestFactsThatWereNotAskedKeepTheirTime(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.update(t, func(tx storage.Tx) error { // by a server that took no note of origins
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		return mdm.LearnInformation(tx, &d, []byte(`{"QueryResponses":{"ModelName":"iPhone","ICCID":"8943"}}`))
	})
	first := h.refresh(t, id, all, inventory.DeviceInformation).Queued[0].CommandUUID
	h.pass(time.Hour)
	// Somebody asks one thing by hand.
	plist, err := command.Build("DeviceInformation", map[string]any{"Queries": []any{"OSVersion"}}, "BY-HAND")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.mdm.Enqueue(context.Background(), mdm.NewCommand{UUID: "BY-HAND", RequestType: "DeviceInformation", Plist: plist, Targets: []mdm.DeviceID{id}}); err != nil {
		t.Fatal(err)
	}
	h.poll(t, id, answers{"DeviceInformation": `{"QueryResponses":{"OSVersion":"18.3"}}`})

	got := map[string]string{}
	for _, f := range h.report(t, id, inventory.DeviceInformation).Facts {
		got[f.Name] = string(f.Value) + " " + f.Origin.CommandUUID
	}
	for name, want := range map[string]string{
		"OSVersion": `"18.3" BY-HAND`, "DeviceName": `"Phone 7" ` + first, "ICCID": `"8943" `, "BatteryLevel": "0.5 " + first,
	} {
		if got[name] != want {
			t.Errorf("%s = %s, want %s", name, got[name], want)
		}
	}
	if got := h.changes(t, id); !same(got, []string{`changed OSVersion "18.2" → "18.3"`}) {
		t.Errorf("history = %q", got)
	}
}

func TestWhatACommandMayDependOnIsInTheRecordOfTheDevice(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a", mac)
	h.refresh(t, id, all.
		but(inventory.DeviceInformation, `{"QueryResponses":{"IsSupervised":false,"IsMultiUser":true,"OSVersion":"15.3"}}`).
		but(inventory.SecurityInfo, `{"SecurityInfo":{"ManagementStatus":{"EnrolledViaDEP":true,"UserApprovedEnrollment":true}}}`))
	o, err := h.mdm.Device(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	if !is(o.Supervised, false) || !is(o.SharedIPad, true) || !is(o.UserApproved, true) || !is(o.EnrolledViaDEP, true) || o.OSVersion != "15.3" {
		t.Errorf("the device is %+v", o.Facts)
	}
}

func TestAFailedRefreshStandsBesideTheLastGoodAnswer(t *testing.T) {
	storagetest.AnyEngine(t)
	large := func(list, item string) string {
		return `{"` + list + `":[` + strings.TrimSuffix(strings.Repeat(item+",", 1<<20/len(item)+1), ",") + `]}`
	}
	for name, tt := range map[string]struct {
		source inventory.Source
		says   string
		code   string
	}{
		"the device can't":            {inventory.SecurityInfo, "error", inventory.FailedByDevice},
		"the answer is nonsense":      {inventory.ProfileList, `{"ProfileList":{"a":1}}`, inventory.FailedByNonsense},
		"there are no answers":        {inventory.DeviceInformation, `{"QueryResponses":[1]}`, inventory.FailedByNonsense},
		"there is nothing at all":     {inventory.CertificateList, `null`, inventory.FailedByNonsense},
		"the list is too long":        {inventory.InstalledApplicationList, large("InstalledApplicationList", `{"Identifier":"com.example.app","Name":"A name as apps have it"}`), inventory.FailedBySize},
		"the facts are too many":      {inventory.DeviceInformation, `{"QueryResponses":{` + manyFacts(1001) + `}}`, inventory.FailedBySize},
		"a fact is too large":         {inventory.DeviceInformation, `{"QueryResponses":{"HostName":"` + strings.Repeat("a", 1<<20) + `"}}`, inventory.FailedBySize},
		"what is secure is too large": {inventory.SecurityInfo, `{"SecurityInfo":{"X":"` + strings.Repeat("a", 1<<20) + `"}}`, inventory.FailedBySize},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id := h.device(t, "a")
			h.refresh(t, id, all)
			good := h.report(t, id, tt.source)
			h.pass(time.Hour)
			h.refresh(t, id, all.but(tt.source, tt.says), tt.source)
			got := h.report(t, id, tt.source)
			if got.Failure == nil || got.Failure.Code != tt.code || !got.Failure.At.Equal(h.now) || got.Failure.Reason == "" {
				t.Errorf("the failure is %+v, want %s at %v", got.Failure, tt.code, h.now)
			}
			if got.Answer != good.Answer || string(got.Value) != string(good.Value) || got.Count != good.Count {
				t.Errorf("the last good answer is %+v, want %+v", got, good)
			}
			h.refresh(t, id, all, tt.source)
			if again := h.report(t, id, tt.source); again.Failure != nil || !again.Answer.AnsweredAt.Equal(h.now) {
				t.Errorf("after a good answer: %+v", again)
			}
			if got := h.changes(t, id); len(got) > 0 {
				t.Errorf("what failed has a history: %q", got)
			}
		})
	}
}

func manyFacts(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"Fact%d":1`, i)
	}
	return b.String()[1:]
}

func TestAQuestionThatNobodyCameForIsAFailure(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	o := h.refresh(t, id, nil, inventory.SecurityInfo)
	if w := h.report(t, id, inventory.SecurityInfo).Waiting; w == nil || w.State != mdm.Delivered {
		t.Errorf("the device has yet to answer %+v", w)
	}
	h.pass(4 * 24 * time.Hour)
	h.update(t, func(tx storage.Tx) error { return h.mdm.CancelCommand(tx, id, o.Queued[0].CommandUUID, mdm.Expired) })
	r := h.report(t, id, inventory.SecurityInfo)
	if r.Failure == nil || r.Failure.Code != inventory.FailedByTime || r.Waiting != nil {
		t.Errorf("after its time: %+v", r)
	}
}

func TestHistorySaysWhatIsDifferent(t *testing.T) {
	certificate := func(name string) string {
		return fmt.Sprintf(`{"CommonName":%q,"IsIdentity":false,"Data":%q}`, name, base64.StdEncoding.EncodeToString([]byte(name)))
	}
	for name, tt := range map[string]struct {
		source        inventory.Source
		before, after string
		want          []string
	}{
		"facts, but not those that always are": {
			inventory.DeviceInformation,
			`{"QueryResponses":{"DeviceName":"A","BatteryLevel":0.5,"TimeZone":"Europe/Vienna","PushToken":"[redacted]","IsRoaming":false,"OrganizationInfo":{"OrganizationName":"X","Deep":{"A":1}}}}`,
			`{"QueryResponses":{"DeviceName":"B","BatteryLevel":0.4,"TimeZone":"Asia/Tokyo","PushToken":"x","IsRoaming":true,"OrganizationInfo":{"OrganizationName":"Y","Deep":{"A":2}},"ICCID":"1"}}`,
			[]string{`changed DeviceName "A" → "B"`, `changed OrganizationInfo.Deep.A 1 → 2`, `changed OrganizationInfo.OrganizationName "X" → "Y"`},
		},
		"what protects the device": {
			inventory.SecurityInfo,
			`{"SecurityInfo":{"PasscodePresent":true,"FDE_Enabled":true,"FDE_PersonalRecoveryKeyCMS":"[redacted]","FirewallSettings":{"FirewallEnabled":true}}}`,
			`{"SecurityInfo":{"PasscodePresent":false,"FDE_PersonalRecoveryKeyCMS":"secret","FirewallSettings":{"FirewallEnabled":false}}}`,
			[]string{`changed FirewallSettings.FirewallEnabled true → false`, `changed PasscodePresent true → false`},
		},
		"apps": {
			inventory.InstalledApplicationList,
			`{"InstalledApplicationList":[{"Identifier":"com.tinyspeck.slack","Name":"Slack","ShortVersion":"4.41","Installing":true},{"Identifier":"gone","Name":"Gone","Version":"1"},{"Identifier":"twice","Version":"1"},{"Identifier":"same","Version":"1","DynamicSize":5}]}`,
			`{"InstalledApplicationList":[{"Identifier":"same","Version":"1","DynamicSize":6},{"Identifier":"new","Name":"New"},{"Identifier":"com.tinyspeck.slack","Name":"Slack","ShortVersion":"4.42"},{"Identifier":"twice","Version":"2"},{"Identifier":"twice","Version":"1"}]}`,
			[]string{`changed com.tinyspeck.slack Slack "4.41" → "4.42"`, `added new New → ""`, `changed twice "1" → "1, 2"`, `removed gone Gone "1" →`},
		},
		"managed apps": {
			inventory.ManagedApplicationList,
			`{"ManagedApplicationList":{"a":{"Status":"Installing"},"b":{"Status":"Managed","UnusedRedemptionCode":"X"}}}`,
			`{"ManagedApplicationList":{"a":{"Status":"Managed"},"c":7}}`,
			[]string{`changed a "Installing" → "Managed"`, `removed b "Managed" →`},
		},
		"profiles": {
			inventory.ProfileList,
			`{"ProfileList":[{"PayloadIdentifier":"x","PayloadUUID":"1","PayloadDisplayName":"X"},{"PayloadIdentifier":"y","PayloadUUID":"1"}]}`,
			`{"ProfileList":[{"PayloadIdentifier":"y","PayloadUUID":"2","PayloadDisplayName":"Y"}]}`,
			[]string{`changed y Y "1" → "2"`, `removed x X "1" →`},
		},
		"certificates": {
			inventory.CertificateList,
			`{"CertificateList":[` + certificate("a") + `]}`,
			`{"CertificateList":[` + certificate("b") + `]}`,
			[]string{
				`added 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d b → ""`,
				`removed ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb a "" →`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id := h.device(t, "a", mac)
			h.refresh(t, id, answers{string(tt.source): tt.before}, tt.source)
			h.refresh(t, id, answers{string(tt.source): tt.after}, tt.source)
			if got := h.changes(t, id); !same(got, tt.want) {
				t.Errorf("history =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestHistoryIsBoundedAndPaged(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	apps := func(version string, n int) answers {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,{"Identifier":"app%03d","Version":%q}`, i, version)
		}
		return answers{"InstalledApplicationList": `{"InstalledApplicationList":[` + b.String()[1:] + `]}`}
	}
	h.refresh(t, id, apps("0", 250), inventory.InstalledApplicationList)
	for i := range 3 {
		h.refresh(t, id, apps(fmt.Sprint(i+1), 250), inventory.InstalledApplicationList)
	}
	all := h.changes(t, id)
	if len(all) != inventory.MaxChanges {
		t.Fatalf("history has %d changes, want %d", len(all), inventory.MaxChanges)
	}
	if all[0] != `changed app000 "2" → "3"` || all[200] != `omitted → 50` {
		t.Errorf("it begins with %q, and ends the latest answer with %q", all[0], all[200])
	}
	var paged []string
	for cursor := ""; ; {
		page, next, err := h.History(context.Background(), id, cursor, 150)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			paged = append(paged, c.Path)
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(paged) != len(all) || paged[0] != "app000" {
		t.Errorf("the pages have %d changes", len(paged))
	}
	if _, _, err := h.History(context.Background(), id, "x", 10); !errors.Is(err, storage.ErrBadCursor) {
		t.Errorf("History with another's cursor: %v", err)
	}
	h.pass(366 * 24 * time.Hour)
	h.refresh(t, id, apps("9", 1), inventory.InstalledApplicationList)
	for _, line := range h.changes(t, id) {
		if strings.Contains(line, `"2"`) {
			t.Fatalf("a year later there is %s", line)
		}
	}
}

func TestCertificatesAreRead(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Example Root"}, NotBefore: h.now, NotAfter: h.now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	h.refresh(t, id, answers{"CertificateList": fmt.Sprintf(`{"CertificateList":[{"CommonName":"Example Root","IsIdentity":false,"Data":%q},{"CommonName":7},8]}`,
		base64.StdEncoding.EncodeToString(der))}, inventory.CertificateList)
	all, _, err := h.Certificates(context.Background(), id)
	if err != nil || len(all) != 2 {
		t.Fatalf("Certificates = %+v, %v", all, err)
	}
	if c := all[1]; c.Subject != "CN=Example Root" || c.NotAfter.IsZero() || c.Serial == "" {
		t.Errorf("the certificate is %+v", c)
	}
}

func TestOnlyTheWholeListIsAList(t *testing.T) {
	for name, tt := range map[string]struct {
		device func(*mdm.Device)
		source inventory.Source
		params map[string]any
		taken  bool
	}{
		"all":                                 {nil, inventory.ProfileList, nil, true},
		"managed ones of a device":            {nil, inventory.ProfileList, map[string]any{"ManagedOnly": true}, false},
		"managed ones of a personal device":   {personal, inventory.ProfileList, map[string]any{"ManagedOnly": true}, true},
		"all of a personal device":            {personal, inventory.ProfileList, nil, false},
		"all of a User Enrollment":            {userEnrolled, inventory.ProfileList, nil, true},
		"some apps":                           {nil, inventory.InstalledApplicationList, map[string]any{"Identifiers": []any{"a"}}, false},
		"some properties of apps":             {nil, inventory.InstalledApplicationList, map[string]any{"Items": []any{"Name"}}, false},
		"some managed apps":                   {nil, inventory.ManagedApplicationList, map[string]any{"Identifiers": []any{"a"}}, false},
		"not only managed ones, said in full": {nil, inventory.CertificateList, map[string]any{"ManagedOnly": false}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			var change []func(*mdm.Device)
			if tt.device != nil {
				change = append(change, tt.device)
			}
			id := h.device(t, "a", change...)
			plist, err := command.Build(string(tt.source), tt.params, "BY-HAND")
			if err != nil {
				t.Fatal(err)
			}
			_, rejected, err := h.mdm.Enqueue(context.Background(), mdm.NewCommand{UUID: "BY-HAND", RequestType: string(tt.source), Plist: plist, Targets: []mdm.DeviceID{id}})
			if err != nil || len(rejected) > 0 {
				t.Fatal(rejected, err)
			}
			h.poll(t, id, all)
			if r := h.report(t, id, tt.source); r.Answer.CommandUUID == "BY-HAND" != tt.taken {
				t.Errorf("the answer is taken for the list: %v, want %v", r.Answer.CommandUUID != "", tt.taken)
			}
		})
	}
}

func TestNothingPersonalIsStored(t *testing.T) {
	const secret = "SENTINEL-4711"
	says := answers{
		"DeviceInformation":      `{"QueryResponses":{"DeviceName":"iPhone","SerialNumber":"` + secret + `","IMEI":"` + secret + `","PhoneNumber":"` + secret + `","WiFiMAC":"` + secret + `","UDID":"` + secret + `","Unknown":"` + secret + `"},"More":"` + secret + `"}`,
		"SecurityInfo":           `{"SecurityInfo":{"PasscodeCompliant":true,"Unknown":"` + secret + `","AutoLockTime":"` + secret + `","SerialNumber":"` + secret + `"}}`,
		"ManagedApplicationList": `{"ManagedApplicationList":{"com.example.mail":{"Status":"Managed"},"com.example.new":{"Status":"Installing"},"` + secret + `":{"Status":"UserInstalledApp"},"` + secret + `-2":{"Status":"UserRejected"}}}`,
		"InstalledApplicationList": `{"InstalledApplicationList":[{"Identifier":"com.example.mail","Name":"Mail"},{"Identifier":"com.example.own","Name":"` + secret + `"},
			{"Identifier":"` + secret + `"},{"Name":"` + secret + `"},"` + secret + `"],"More":"` + secret + `"}`,
		"ProfileList":     `{"ProfileList":[{"PayloadIdentifier":"ours","PayloadUUID":"1","IsManaged":true},{"PayloadIdentifier":"` + secret + `","PayloadUUID":"2","IsManaged":false},"` + secret + `"]}`,
		"CertificateList": `{"CertificateList":[{"CommonName":"ours","IsIdentity":true,"Data":""}]}`,
	}
	for name, byHand := range map[string]bool{"asked by inventory": false, "asked by somebody": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id := h.device(t, "a", userEnrolled)
			if byHand {
				for _, source := range inventory.Sources() {
					uuid := "BY-HAND-" + string(source)
					plist, err := command.Build(string(source), nil, uuid)
					if err != nil {
						t.Fatal(err)
					}
					if _, _, err := h.mdm.Enqueue(context.Background(), mdm.NewCommand{UUID: uuid, RequestType: string(source), Plist: plist, Targets: []mdm.DeviceID{id}}); err != nil {
						t.Fatal(err)
					}
				}
				h.poll(t, id, says)
			} else {
				h.refresh(t, id, says)
				h.refresh(t, id, says)
			}
			apps, _, _, err := h.Apps(context.Background(), id)
			if err != nil || len(apps) != 2 || !apps[0].Installed || apps[0].Identifier != "com.example.mail" || apps[1].Installed {
				t.Errorf("Apps = %+v, %v; want the managed one, and the one on its way", apps, err)
			}
			if profiles, _, _ := h.Profiles(context.Background(), id); len(profiles) != 1 {
				t.Errorf("Profiles = %+v; want the managed one", profiles)
			}
			h.noneOf(t, secret)
		})
	}
}

// noneOf looks for a text in all that is stored.
func (h *house) noneOf(t *testing.T, text string) {
	t.Helper()
	n := 0
	h.update(t, func(tx storage.Tx) error {
		n = 0
		buckets, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, bucket := range buckets {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				n++
				if strings.Contains(string(item.Key)+string(item.Value), text) {
					t.Errorf("%s holds %s", bucket, item.Value)
				}
			}
		}
		return nil
	})
	if n < 15 {
		t.Errorf("there are %d records: what was looked at?", n)
	}
}

func TestOfAPersonalDeviceOnlyWhatIsManagedIsAskedAndKept(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a", personal)
	if _, err := h.Refresh(context.Background(), "ana", []mdm.DeviceID{id}, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"DeviceInformation", "SecurityInfo", "ManagedApplicationList", "InstalledApplicationList ManagedAppsOnly", "ProfileList ManagedOnly", "CertificateList ManagedOnly"}
	if got := h.poll(t, id, all); !same(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	apps, _, _, err := h.Apps(context.Background(), id)
	if err != nil || len(apps) != 1 || apps[0].Identifier != "com.tinyspeck.slack" {
		t.Errorf("Apps = %+v, %v", apps, err)
	}
}

func TestOfAPersonalDeviceNoHistoryNamesIt(t *testing.T) {
	for name, tt := range map[string]struct {
		kind func(*mdm.Device)
		want []string
	}{
		"a person's own":     {personal, []string{`changed DeviceName "A" → "B"`}},
		"the organisation's": {func(*mdm.Device) {}, []string{`changed DeviceName "A" → "B"`, `changed PhoneNumber "1" → "2"`, `changed WiFiMAC "a" → "b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			id := h.device(t, "a", tt.kind)
			for _, say := range []string{`"DeviceName":"A","PhoneNumber":"1","WiFiMAC":"a"`, `"DeviceName":"B","PhoneNumber":"2","WiFiMAC":"b"`} {
				h.refresh(t, id, answers{"DeviceInformation": `{"QueryResponses":{` + say + `}}`}, inventory.DeviceInformation)
			}
			if got := h.changes(t, id); !same(got, tt.want) {
				t.Errorf("history = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOfAPersonalDeviceAnswersToOurQuestionsAreScreened(t *testing.T) {
	const secret = "SENTINEL-4711"
	h := newHouse(t)
	id := h.device(t, "a", personal)
	h.refresh(t, id, all.but(inventory.InstalledApplicationList, `{"InstalledApplicationList":[{"Identifier":"com.tinyspeck.slack"},{"Identifier":"`+secret+`"}],"More":"`+secret+`"}`).
		but(inventory.ManagedApplicationList, `{"ManagedApplicationList":{"com.tinyspeck.slack":{"Status":"Managed"},"`+secret+`":{"Status":"UserInstalledApp"}}}`))
	h.noneOf(t, secret)
	entries, _, err := h.mdm.DeviceCommands(context.Background(), id, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.RequestType == "InstalledApplicationList" && !strings.Contains(string(e.Result), "com.tinyspeck.slack") {
			t.Errorf("of the answer %s is kept, want the managed app", e.Result)
		}
	}
}

func TestADeviceIsAskedWhatItMayBe(t *testing.T) {
	for name, tt := range map[string]struct {
		device  []func(*mdm.Device)
		queued  string
		leftOut map[inventory.Source]string
	}{
		"a phone":                    {nil, "DeviceInformation SecurityInfo ManagedApplicationList InstalledApplicationList ProfileList CertificateList", nil},
		"a Mac in a User Enrollment": {[]func(*mdm.Device){mac, userEnrolled}, "DeviceInformation SecurityInfo ManagedApplicationList ProfileList CertificateList", map[inventory.Source]string{inventory.InstalledApplicationList: "forbidden_in_user_enrollment"}},
		"one that may not be asked for its apps": {[]func(*mdm.Device){personal, func(d *mdm.Device) { d.AccessRights = 8191 &^ 256 }}, "DeviceInformation SecurityInfo ManagedApplicationList ProfileList CertificateList",
			map[inventory.Source]string{inventory.InstalledApplicationList: "access_right_missing"}},
		"a user of a Mac":   {[]func(*mdm.Device){mac, func(d *mdm.Device) { d.Type, d.ParentID, d.UserID = mdm.TypeUserChannel, "m", "U" }}, "ManagedApplicationList InstalledApplicationList ProfileList CertificateList", nil},
		"one that has left": {[]func(*mdm.Device){func(d *mdm.Device) { d.State = mdm.Unenrolled }}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			id := h.device(t, "a", tt.device...)
			outcomes, err := h.Refresh(context.Background(), "ana", []mdm.DeviceID{id, "nobody"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			o := outcomes[0]
			if got := strings.Join(sources(o.Queued), " "); got != tt.queued || len(o.LeftOut) != len(tt.leftOut) || (o.Code != "") != (tt.queued == "") {
				t.Errorf("asked for %s, left out %+v, %s; want %s", got, o.LeftOut, o.Code, tt.queued)
			}
			for _, l := range o.LeftOut {
				if tt.leftOut[l.Source] != l.Code || l.Reason == "" {
					t.Errorf("%s is left out: %s, %s", l.Source, l.Code, l.Reason)
				}
			}
			if outcomes[1].Code != "not_found" {
				t.Errorf("nobody is %+v", outcomes[1])
			}
		})
	}
}

func TestAQuestionThatWaitsIsNotAskedAgain(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	ask := func() inventory.Outcome {
		t.Helper()
		o, err := h.Refresh(context.Background(), "ana", []mdm.DeviceID{id}, []inventory.Source{inventory.SecurityInfo})
		if err != nil {
			t.Fatal(err)
		}
		return o[0]
	}
	first := ask()
	if again := ask(); len(again.Queued) > 0 || !slices.Equal(again.Waiting, first.Queued) {
		t.Errorf("asked again: %+v, want that %+v waits", again, first.Queued)
	}
	h.poll(t, id, all)
	// What the server asks by itself gives way to somebody who wants to know, unless the device
	// has it.
	h.pass(time.Hour)
	h.tick(t)
	byServer := h.report(t, id, inventory.SecurityInfo).Waiting
	if byServer == nil || byServer.Priority != mdm.Background {
		t.Fatalf("the server asks for %+v", byServer)
	}
	if o := ask(); len(o.Queued) != 1 {
		t.Errorf("somebody waits behind the server: %+v", o)
	}
	waiting := 0
	h.update(t, func(tx storage.Tx) error {
		waiting = 0
		for e, err := range mdm.PendingCommands(tx, id) {
			if err != nil {
				return err
			}
			if e.RequestType == "SecurityInfo" {
				waiting++
			}
		}
		return nil
	})
	if waiting != 1 {
		t.Errorf("%d questions for SecurityInfo wait, want the newer one", waiting)
	}
}

func TestAnotherEnrollmentBeginsWithNothing(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.refresh(t, id, all)
	h.refresh(t, id, all.but(inventory.SecurityInfo, `{"SecurityInfo":{"PasscodePresent":false}}`))
	if len(h.changes(t, id)) == 0 {
		t.Fatal("there is no history to forget")
	}
	h.update(t, func(tx storage.Tx) error { return h.Forget(tx, id) })
	in, err := h.Inventory(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range in.Reports {
		if !r.Answer.AnsweredAt.IsZero() || r.Value != nil || r.Count > 0 {
			t.Errorf("%s says %+v", r.Source, r)
		}
	}
	if got := h.changes(t, id); len(got) > 0 || !in.NextAt.IsZero() {
		t.Errorf("history = %q, next at %v", got, in.NextAt)
	}
}
