package inventory

import (
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Settings are what the operator decides about the inventory.
type Settings struct {
	Enabled    bool          `json:"enabled"`     // false: devices are asked only when somebody wants to know
	Every      time.Duration `json:"every"`       // between two refreshes of a device
	FirstAfter time.Duration `json:"first_after"` // from its enrollment to the first
}

// DefaultSettings are the settings of a new server.
func DefaultSettings() Settings {
	return Settings{Enabled: true, Every: 24 * time.Hour, FirstAfter: time.Minute}
}

// Bounds of Settings.
const (
	leastEvery     = 15 * time.Minute
	mostEvery      = 30 * 24 * time.Hour
	mostFirstAfter = 7 * 24 * time.Hour
)

// FieldError says which of the Settings is wrong, and why.
type FieldError struct {
	Field  string // "every"
	Reason string // "must be from 15m to 720h"
}

// Error returns field and reason in one line.
func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

func (s Settings) check() error {
	switch {
	case s.Every < leastEvery || s.Every > mostEvery:
		return &FieldError{"every", "must be from 15m to 720h"}
	case s.FirstAfter < 0 || s.FirstAfter > mostFirstAfter:
		return &FieldError{"first_after", "must be from 0s to 168h"}
	}
	return nil
}

const settingsKey = "settings"

var settingsRecords = storage.NewCollection("inventory.settings", 1, func(Settings) string { return settingsKey })

// GetSettings returns the settings in force.
func GetSettings(tx storage.Tx) (Settings, error) {
	s, err := settingsRecords.Get(tx, settingsKey)
	if errors.Is(err, storage.ErrNotFound) {
		return DefaultSettings(), nil
	}
	return s, err
}

// PutSettings changes the settings. The error may be a *FieldError.
func PutSettings(tx storage.Tx, s Settings) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("inventory settings: %w", err)
	}
	return settingsRecords.Put(tx, s)
}
