// Package config holds the settings of the server: one struct, its defaults,
// and where their values come from.
//
// A value comes from the first of these that has it: a flag of its own
// (--mqtt), --set key=value, the environment (HOMING_STORE_SYNC), the file,
// the default. The file is YAML and strict: a key that is unknown, there twice
// or of the wrong type is an error with its line. --set and the environment
// take scalars as they are and lists in YAML's flow form, [a, b].
//
// Keys, comments, allowed values and bounds stand in the tags of Config's
// fields and nowhere else. To add a setting, add a field.
//
// Only the command imports this package: all others have small Options of
// their own.
package config
