"""The formula of the table ``priority``: known exploited first, then probability, then severity.

A CVE's score is the sum of

- 1000 if it is known to be exploited: it is in ``kev`` and not gone;
- the probability in percent that it will be exploited within 30 days, to three decimals, from ``epss``;
- its CVSS base score divided by 100,000, from ``nvd``: of the newest version of CVSS that there is.

So each part decides only where those before it are equal, and the digits can be read: 1094.371098 is known to be
exploited, has a probability of 94.371 %, and CVSS 9.8. What is unknown adds nothing, and comes after what is known to
be nothing. The rank is the place in this order; the id decides between equals.
"""

from __future__ import annotations

QUERY = """
WITH known AS (
  SELECT cve_id, k.cve_id IS NOT NULL AS exploited, k.date_added,
         k.known_ransomware_campaign_use = 'Known' AS ransom, round(100 * e.epss, 3) AS percent, n.status,
         coalesce(n.cvss_v40_score, n.cvss_v31_score, n.cvss_v30_score, n.cvss_v2_score) AS severity,
         CASE WHEN n.cvss_v40_score IS NOT NULL THEN '4.0' WHEN n.cvss_v31_score IS NOT NULL THEN '3.1'
              WHEN n.cvss_v30_score IS NOT NULL THEN '3.0' ELSE '2.0' END AS version
    FROM (SELECT * FROM kev WHERE gone_at IS NULL) k
    FULL JOIN epss e USING (cve_id)
    FULL JOIN nvd n USING (cve_id)),
scored AS (
  SELECT known.*,
         CASE WHEN exploited THEN 1000 ELSE 0 END + coalesce(percent, 0) + coalesce(severity, 0) * 0.00001 AS score,
         CASE WHEN severity >= 9 AND version <> '2.0' THEN 'critical' WHEN severity >= 7 THEN 'high'
              WHEN severity >= 4 THEN 'medium' WHEN severity > 0 THEN 'low' ELSE 'none' END AS grade
    FROM known),
ranked AS (
  SELECT cve_id, score,
         row_number() OVER (ORDER BY score DESC, percent DESC NULLS LAST, severity DESC NULLS LAST, cve_id COLLATE "C")
           AS rank,
         concat_ws('; ',
           CASE WHEN exploited THEN 'known to be exploited (listed ' || to_char(date_added, 'YYYY-MM-DD') || ')' END,
           CASE WHEN ransom THEN 'used for ransomware' END,
           'probability of exploitation ' || coalesce(trim_scale(percent) || ' %%', 'unknown'),
           coalesce('severity ' || grade || ' (CVSS ' || version || ': ' || severity || ')', 'severity unknown'),
           CASE WHEN status = 'Rejected' THEN 'rejected as a CVE' END) AS why
    FROM scored)
SELECT r.cve_id, r.rank, r.score, r.why,
       CASE WHEN same THEN p.kev_until ELSE %s END AS kev_until,
       CASE WHEN same THEN p.epss_until ELSE %s END AS epss_until,
       CASE WHEN same THEN p.nvd_until ELSE %s END AS nvd_until
  FROM ranked r
  LEFT JOIN priority p USING (cve_id)
 CROSS JOIN LATERAL (SELECT (p.rank, p.score, p.why) IS NOT DISTINCT FROM (r.rank, r.score, r.why) AS same) s
"""
"""Takes the watermarks of ``kev``, ``epss`` and ``nvd``."""
