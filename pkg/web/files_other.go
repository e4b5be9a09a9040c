//go:build !unix

package web

func fileLimit() int64 { return 0 }
