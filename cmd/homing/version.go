package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker (see Makefile); empty in other builds.
var version string

// buildVersion returns the version of this program: a tag, with the commit if
// it is not exactly that.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

type versionCmd struct{}

func (*versionCmd) Help() string {
	return "Example:\n\n    homing version"
}

func (*versionCmd) Run(con *console) error {
	_, err := fmt.Fprintf(con.Out, "homing %s (%s %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
