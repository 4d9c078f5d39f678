package wake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Settings say how long devices are woken that don't come, or put everything off.
type Settings struct {
	// Repeats is how often a push is repeated that Apple took and whose device did not come:
	// Apple keeps the last one for days, so that one is enough for most.
	Repeats int `json:"repeats"`
	// RepeatAfter is how long a device has before the first of them; each further one comes
	// after twice the time.
	RepeatAfter time.Duration `json:"repeat_after"`
	// NotNowRepeats is how often a device is woken that put its commands off: after half a
	// minute, then twice that, up to once in an hour.
	NotNowRepeats int `json:"not_now_repeats"`
	// SilentAfter is when a device that was not heard of is called silent.
	SilentAfter time.Duration `json:"silent_after"`
}

// Defaults are the settings of who has set none.
func Defaults() Settings {
	return Settings{Repeats: 1, RepeatAfter: time.Hour, NotNowRepeats: 20, SilentAfter: 7 * 24 * time.Hour}
}

// SettingsError says which of the settings can't be.
type SettingsError struct {
	Field  string // as in JSON
	Reason string // a sentence
}

func (e *SettingsError) Error() string { return e.Field + ": " + e.Reason }

// Check returns a *SettingsError for the first of the settings that can't be.
func (s Settings) Check() error {
	const day = 24 * time.Hour
	switch {
	case s.Repeats < 0 || s.Repeats > 100:
		return &SettingsError{"repeats", "It must be from 0 to 100."}
	case s.RepeatAfter < time.Minute || s.RepeatAfter > 30*day:
		return &SettingsError{"repeat_after", "It must be from one minute to 30 days."}
	case s.NotNowRepeats < 0 || s.NotNowRepeats > 1000:
		return &SettingsError{"not_now_repeats", "It must be from 0 to 1000."}
	case s.SilentAfter < time.Hour || s.SilentAfter > 365*day:
		return &SettingsError{"silent_after", "It must be from one hour to 365 days."}
	}
	return nil
}

const settingsKey = "settings"

var settings = storage.NewCollection("mdm.wake_settings", 1, func(Settings) string { return settingsKey })

// ReadSettings is what [storage.Tx.Prefetch] takes for GetSettings.
func ReadSettings() storage.Read { return settings.Read(settingsKey) }

// GetSettings returns the settings in force.
func GetSettings(tx storage.Tx) (Settings, error) {
	s, err := settings.Get(tx, settingsKey)
	if errors.Is(err, storage.ErrNotFound) {
		return Defaults(), nil
	}
	if err != nil {
		return Settings{}, fmt.Errorf("settings of pushing: %w", err)
	}
	return s, nil
}

// Settings returns the settings in force.
func (s *Service) Settings(ctx context.Context) (v Settings, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		v, err = GetSettings(tx)
		return err
	})
	return v, err
}

// PutSettings puts v in force. The error may be a *SettingsError.
func PutSettings(tx storage.Tx, v Settings) error {
	if err := v.Check(); err != nil {
		return err
	}
	if err := settings.Put(tx, v); err != nil {
		return fmt.Errorf("settings of pushing: %w", err)
	}
	return nil
}
