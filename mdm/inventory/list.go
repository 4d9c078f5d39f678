package inventory

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// App is an app on a device.
type App struct {
	Identifier         string `json:"identifier"` // a Mac has apps without
	Name               string `json:"name,omitempty"`
	Version            string `json:"version,omitempty"`
	ShortVersion       string `json:"short_version,omitempty"`
	BundleSize         int64  `json:"bundle_size,omitempty"`  // bytes
	DynamicSize        int64  `json:"dynamic_size,omitempty"` // bytes of its data
	Path               string `json:"path,omitempty"`         // of a Mac
	Source             string `json:"source,omitempty"`       // where it came from, in Apple's words
	Installing         bool   `json:"installing,omitempty"`
	HasUpdateAvailable bool   `json:"has_update_available,omitempty"`
	AppStoreVendable   bool   `json:"app_store_vendable,omitempty"`
	BetaApp            bool   `json:"beta_app,omitempty"`
	AdHocCodeSigned    bool   `json:"ad_hoc_code_signed,omitempty"`
	IsAppClip          bool   `json:"is_app_clip,omitempty"`
}

// version is what people call the version of a.
func (a App) version() string { return cmp.Or(a.ShortVersion, a.Version) }

// ManagedApp is an app that this server has installed, or tried to.
type ManagedApp struct {
	Identifier                string `json:"identifier"`
	Status                    string `json:"status"` // Apple's word: "Managed"
	ManagementFlags           int64  `json:"management_flags,omitempty"`
	HasConfiguration          bool   `json:"has_configuration,omitempty"`
	HasFeedback               bool   `json:"has_feedback,omitempty"`
	IsValidated               bool   `json:"is_validated,omitempty"`
	ExternalVersionIdentifier int64  `json:"external_version_identifier,omitempty"`
}

// InstalledProfile is a configuration profile on a device.
type InstalledProfile struct {
	Identifier         string    `json:"identifier"`
	UUID               string    `json:"uuid"`
	Version            int64     `json:"version,omitempty"`
	DisplayName        string    `json:"display_name,omitempty"`
	Organization       string    `json:"organization,omitempty"`
	Description        string    `json:"description,omitempty"`
	RemovalDisallowed  bool      `json:"removal_disallowed,omitempty"`
	HasRemovalPasscode bool      `json:"has_removal_passcode,omitempty"`
	IsEncrypted        bool      `json:"is_encrypted,omitempty"`
	IsManaged          *bool     `json:"is_managed,omitempty"` // nil: the platform does not say
	Source             string    `json:"source,omitempty"`
	Payloads           []Payload `json:"payloads,omitempty"`
}

// Payload is one of an InstalledProfile.
type Payload struct {
	Type        string `json:"type"`
	Identifier  string `json:"identifier"`
	UUID        string `json:"uuid,omitempty"`
	DisplayName string `json:"display_name,omitempty"`
}

// InstalledCertificate is a certificate on a device. Subject and what follows are empty where
// it could not be read.
type InstalledCertificate struct {
	CommonName string    `json:"common_name"`
	IsIdentity bool      `json:"is_identity"`
	SHA256     string    `json:"sha256"` // of its DER, in hex
	Subject    string    `json:"subject,omitempty"`
	Issuer     string    `json:"issuer,omitempty"`
	Serial     string    `json:"serial,omitempty"` // in hex
	NotBefore  time.Time `json:"not_before,omitzero"`
	NotAfter   time.Time `json:"not_after,omitzero"`
}

// maxText bounds a text that a device says, in bytes.
const maxText = 1024

// text and those after it return a value of a dictionary that a device sent, zero where it is
// not there, or of another kind.
func text(d map[string]any, key string) string {
	v, _ := d[key].(string)
	return clamp(v)
}

func clamp(v string) string {
	if len(v) > maxText {
		v = strings.ToValidUTF8(v[:maxText], "")
	}
	return v
}

func flag(d map[string]any, key string) bool {
	v, _ := d[key].(bool)
	return v
}

func number(d map[string]any, key string) int64 {
	n, _ := d[key].(json.Number)
	if i, err := n.Int64(); err == nil {
		return i
	}
	f, err := n.Float64()
	if err != nil || f < -1<<53 || f > 1<<53 {
		return 0
	}
	return int64(f)
}

// readList returns the list in an answer of a source as it is kept, or false if there is none.
func readList(s Source, answer map[string]any) (list any, ok bool) {
	if s == ManagedApplicationList {
		apps, ok := answer[string(s)].(map[string]any)
		return readManagedApps(apps), ok
	}
	items, ok := answer[string(s)].([]any)
	if !ok {
		return nil, false
	}
	dictionaries := make([]map[string]any, 0, len(items))
	for _, item := range items {
		if d, ok := item.(map[string]any); ok {
			dictionaries = append(dictionaries, d)
		}
	}
	switch s {
	case InstalledApplicationList:
		return collect(dictionaries, readApp, func(a, b App) int {
			return cmp.Or(cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.Identifier, b.Identifier), cmp.Compare(a.Path, b.Path))
		}), true
	case ProfileList:
		return collect(dictionaries, readProfile, func(a, b InstalledProfile) int { return cmp.Compare(a.Identifier, b.Identifier) }), true
	case CertificateList:
		return collect(dictionaries, readCertificate, func(a, b InstalledCertificate) int {
			return cmp.Or(cmp.Compare(strings.ToLower(a.CommonName), strings.ToLower(b.CommonName)), cmp.Compare(a.SHA256, b.SHA256))
		}), true
	}
	return nil, false
}

func collect[T any](items []map[string]any, read func(map[string]any) T, order func(a, b T) int) []T {
	list := make([]T, len(items))
	for i, item := range items {
		list[i] = read(item)
	}
	sort.SliceStable(list, func(i, j int) bool { return order(list[i], list[j]) < 0 }) // compiled once, not for each T
	return list
}

func readManagedApps(apps map[string]any) []ManagedApp {
	list := make([]ManagedApp, 0, len(apps))
	for _, identifier := range slices.Sorted(maps.Keys(apps)) {
		d, ok := apps[identifier].(map[string]any)
		if !ok {
			continue
		}
		list = append(list, ManagedApp{
			Identifier: clamp(identifier), Status: text(d, "Status"), ManagementFlags: number(d, "ManagementFlags"),
			HasConfiguration: flag(d, "HasConfiguration"), HasFeedback: flag(d, "HasFeedback"), IsValidated: flag(d, "IsValidated"),
			ExternalVersionIdentifier: number(d, "ExternalVersionIdentifier"),
		})
	}
	return list
}

func readApp(d map[string]any) App {
	return App{
		Identifier: text(d, "Identifier"), Name: text(d, "Name"), Version: text(d, "Version"), ShortVersion: text(d, "ShortVersion"),
		BundleSize: number(d, "BundleSize"), DynamicSize: number(d, "DynamicSize"), Path: text(d, "Path"), Source: text(d, "Source"),
		Installing: flag(d, "Installing"), HasUpdateAvailable: flag(d, "HasUpdateAvailable"), AppStoreVendable: flag(d, "AppStoreVendable"),
		BetaApp: flag(d, "BetaApp"), AdHocCodeSigned: flag(d, "AdHocCodeSigned"), IsAppClip: flag(d, "IsAppClip"),
	}
}

func readProfile(d map[string]any) InstalledProfile {
	p := InstalledProfile{
		Identifier: text(d, "PayloadIdentifier"), UUID: text(d, "PayloadUUID"), Version: number(d, "PayloadVersion"),
		DisplayName: text(d, "PayloadDisplayName"), Organization: text(d, "PayloadOrganization"), Description: text(d, "PayloadDescription"),
		RemovalDisallowed: flag(d, "PayloadRemovalDisallowed"), HasRemovalPasscode: flag(d, "HasRemovalPasscode"),
		IsEncrypted: flag(d, "IsEncrypted"), Source: text(d, "Source"),
	}
	if managed, ok := d["IsManaged"].(bool); ok {
		p.IsManaged = &managed
	}
	content, _ := d["PayloadContent"].([]any)
	for _, v := range content {
		if c, ok := v.(map[string]any); ok {
			p.Payloads = append(p.Payloads, Payload{
				Type: text(c, "PayloadType"), Identifier: text(c, "PayloadIdentifier"), UUID: text(c, "PayloadUUID"), DisplayName: text(c, "PayloadDisplayName"),
			})
		}
	}
	return p
}

func readCertificate(d map[string]any) InstalledCertificate {
	c := InstalledCertificate{CommonName: text(d, "CommonName"), IsIdentity: flag(d, "IsIdentity")}
	data, _ := d["Data"].(string)
	der, err := base64.StdEncoding.DecodeString(data)
	if err != nil || len(der) == 0 {
		return c
	}
	sum := sha256.Sum256(der)
	c.SHA256 = hex.EncodeToString(sum[:])
	cert, err := guard.ParseCertificate(der)
	if err != nil {
		return c
	}
	c.Subject, c.Issuer = clamp(cert.Subject.String()), clamp(cert.Issuer.String())
	c.Serial = cert.SerialNumber.Text(16)
	c.NotBefore, c.NotAfter = cert.NotBefore.UTC(), cert.NotAfter.UTC()
	return c
}
