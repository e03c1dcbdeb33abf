//go:build !unix

package main

// openFilesLimit is how many files the process may have open; 0: any number.
func openFilesLimit() int { return 0 }
