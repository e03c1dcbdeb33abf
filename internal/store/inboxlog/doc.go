// Package inboxlog is the segmented log that holds all inboxes.
package inboxlog
