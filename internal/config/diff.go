package config

import (
	"reflect"
	"slices"
)

// Changed lists the settings that differ between two configurations: those that
// count while the server runs, tagged live, and those that need a restart.
func Changed(a, b *Config) (live, restart []string) {
	leaves, _ := settings()
	for i := range leaves {
		s := &leaves[i]
		if reflect.DeepEqual(s.value(a).Interface(), s.value(b).Interface()) {
			continue
		}
		if s.field.Tag.Get("live") != "" {
			live = append(live, s.path)
		} else {
			restart = append(restart, s.path)
		}
	}
	return slices.Clip(live), slices.Clip(restart)
}
