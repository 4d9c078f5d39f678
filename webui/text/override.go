package text

import (
	"errors"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// override is what the operator says in one language instead of our texts.
type override struct {
	Lang      string            `json:"lang"`
	Texts     map[string]string `json:"texts"` // by key; none is empty
	UpdatedAt time.Time         `json:"updated_at"`
	By        string            `json:"by"`
}

var overrides = storage.NewCollection("portal.texts", 1, func(o override) string { return o.Lang })

// revision counts the changes of all overrides. Every writer reads and writes it.
type revision struct {
	Number int64 `json:"number"`
}

const revisionKey = "revision"

var revisions = storage.NewCollection("portal.texts-revision", 1, func(revision) string { return revisionKey })

// revisionOf returns the number of changes that there were.
func revisionOf(tx storage.Tx) (int64, error) {
	r, err := revisions.Get(tx, revisionKey)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	return r.Number, err
}

// overridesIn returns what the operator wrote, by language and key.
func overridesIn(tx storage.Tx) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for o, err := range overrides.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		all[o.Lang] = o.Texts
	}
	return all, nil
}
