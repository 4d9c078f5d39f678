package apiv1

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// secretJSON is what may be told of a secret.
type secretJSON struct {
	Kind        string     `json:"kind"`
	State       string     `json:"state"`
	CommandUUID string     `json:"command_uuid"`
	Account     string     `json:"account"`
	CreatedAt   *time.Time `json:"created_at"`
	KeptUntil   *time.Time `json:"kept_until"`
	RevealedAt  *time.Time `json:"revealed_at"`
	RevealedBy  string     `json:"revealed_by"`
	Revealable  bool       `json:"revealable"`
}

// revealedJSON is a secret with what it is.
type revealedJSON struct {
	Value       string     `json:"value"`
	Encoding    string     `json:"encoding"` // text, or base64 of a CMS message
	State       string     `json:"state"`
	CommandUUID string     `json:"command_uuid"`
	Account     string     `json:"account"`
	CreatedAt   *time.Time `json:"created_at"`
}

type revealedListJSON struct {
	DeviceID string         `json:"device_id"`
	Kind     string         `json:"kind"`
	Secrets  []revealedJSON `json:"secrets"`
}

// maxReason is how much of a reason the audit log keeps, in bytes.
const maxReason = 500

func (a *API) listSecrets(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	list, err := a.mdm.Secrets(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(list, "", func(h mdm.HeldSecret) secretJSON {
		return secretJSON{
			Kind: string(h.Kind), State: string(h.State), CommandUUID: h.CommandUUID, Account: h.Account,
			CreatedAt: timestamp(h.CreatedAt), KeptUntil: timestamp(h.KeptUntil), RevealedAt: timestamp(h.RevealedAt), RevealedBy: h.RevealedBy,
			Revealable: h.Kind.Revealable(),
		}
	}))
}

func (a *API) revealSecret(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	kind := mdm.SecretKind(r.PathValue("kind"))
	if !kind.Known() {
		return storage.ErrNotFound
	}
	var in struct {
		Reason string `json:"reason"`
	}
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	switch in.Reason = strings.TrimSpace(in.Reason); {
	case in.Reason == "":
		return invalid("reason", "is required: it goes into the audit log")
	case len(in.Reason) > maxReason:
		return invalid("reason", fmt.Sprintf("must have at most %d bytes", maxReason))
	}
	p := principal(r)
	all, err := a.mdm.Reveal(r.Context(), mdm.DeviceID(id), kind, mdm.Viewer{Actor: p.String(), Peer: p.Peer, Reason: in.Reason})
	if err != nil {
		return err
	}
	out := revealedListJSON{DeviceID: id, Kind: string(kind), Secrets: make([]revealedJSON, len(all))}
	for i, s := range all {
		out.Secrets[i] = revealedJSON{
			Value: string(s.Value), Encoding: "text", State: string(s.State), CommandUUID: s.CommandUUID, Account: s.Account, CreatedAt: timestamp(s.CreatedAt),
		}
		if s.Envelope {
			out.Secrets[i].Value, out.Secrets[i].Encoding = base64.StdEncoding.EncodeToString([]byte(s.Value)), "base64"
		}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

// getEscrowCertificate hands out what a profile names so that Macs encrypt their recovery
// keys for this server.
func (a *API) getEscrowCertificate(w http.ResponseWriter, r *http.Request) error {
	der, err := a.mdm.EscrowCertificate(r.Context())
	if err != nil {
		return err
	}
	webui.SendFile(w, "application/pkix-cert", "gatehouse-filevault-escrow.cer", der)
	return nil
}
